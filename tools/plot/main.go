// Command plot draws benchmarks of several sizes: a panel for each unit, a curve for each build,
// both axes logarithmic.
//
//	go -C tools run ./plot 'Sizing/accounts=' refresher-MiB,ready-cpu-s before=/tmp/before.txt after=/tmp/after.txt >docs/sizing.svg
//
// The files hold lines of benchmarks, as scripts/bench-pair keeps them (KEEP).
package main

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// point is the median of the values at a size.
type point struct{ size, value float64 }

// The measures of a panel, in pixels.
const (
	width, height = 320, 240
	left, bottom  = 60, 40
	top, right    = 30, 15
)

// colours are the colours of the builds, in order.
var colours = []string{"#888888", "#0b6e4f", "#c1440e"}

func main() {
	if len(os.Args) < 4 {
		fail(fmt.Errorf("want a name, units and files: plot 'Sizing/accounts=' refresher-MiB,ready-s before=FILE after=FILE"))
	}
	units := strings.Split(os.Args[2], ",")
	columns := min(len(units), 3)
	rows := (len(units) + columns - 1) / columns
	fmt.Printf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">`+"\n", columns*width, rows*height+20)
	fmt.Println(`<rect width="100%" height="100%" fill="white"/>`)
	for i, unit := range units {
		curves := map[string][]point{}
		var names []string
		for _, arg := range os.Args[3:] {
			name, file, _ := strings.Cut(arg, "=")
			points, err := read(file, os.Args[1], unit)
			if err != nil {
				fail(err)
			}
			names, curves[name] = append(names, name), points
		}
		panel(i%columns*width, i/columns*height, unit, names, curves)
	}
	fmt.Println("</svg>")
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "plot:", err)
	os.Exit(1)
}

// read returns the medians of a unit by the number that follows the benchmark's name.
func read(file, name, unit string) (points []point, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	sized := regexp.MustCompile("^Benchmark" + regexp.QuoteMeta(name) + `(\d+)(-\d+)?$`)
	measured := map[float64][]float64{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || !sized.MatchString(fields[0]) {
			continue
		}
		size, _ := strconv.ParseFloat(sized.FindStringSubmatch(fields[0])[1], 64)
		for i := 2; i+1 < len(fields); i += 2 {
			if value, err := strconv.ParseFloat(fields[i], 64); err == nil && fields[i+1] == unit && value > 0 {
				measured[size] = append(measured[size], value)
			}
		}
	}
	for size, values := range measured {
		slices.Sort(values)
		points = append(points, point{size, values[len(values)/2]})
	}
	slices.SortFunc(points, func(a, b point) int { return int(math.Copysign(1, a.size-b.size)) })
	return points, lines.Err()
}

// panel draws the curves of one unit.
func panel(x, y int, unit string, names []string, curves map[string][]point) {
	low, high := point{math.Inf(1), math.Inf(1)}, point{math.Inf(-1), math.Inf(-1)}
	for _, points := range curves {
		for _, p := range points {
			low.size, low.value = min(low.size, p.size), min(low.value, p.value)
			high.size, high.value = max(high.size, p.size), max(high.value, p.value)
		}
	}
	if low.size > high.size {
		return
	}
	decade := func(v float64, round func(float64) float64) float64 { return math.Pow(10, round(math.Log10(v))) }
	low.value, high.value = decade(low.value, math.Floor), decade(high.value, math.Ceil)
	part := func(v, from, to float64) float64 {
		if from == to {
			return 0.5
		}
		return math.Log(v/from) / math.Log(to/from)
	}
	at := func(p point) (float64, float64) {
		return float64(x+left) + part(p.size, low.size, high.size)*(width-left-right), float64(y+height-bottom) - part(p.value, low.value, high.value)*(height-bottom-top)
	}
	fmt.Printf(`<text x="%d" y="%d" font-weight="bold">%s</text>`+"\n", x+left, y+18, unit)
	for v := low.value; v <= high.value*1.001; v *= 10 {
		x1, y1 := at(point{low.size, v})
		x2, _ := at(point{high.size, v})
		fmt.Printf(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#ddd"/><text x="%.1f" y="%.1f" text-anchor="end">%g</text>`+"\n", x1, y1, x2, y1, x1-5, y1+4, v)
	}
	for s := decade(low.size, math.Ceil); s <= high.size*1.001; s *= 10 {
		x1, y1 := at(point{s, low.value})
		fmt.Printf(`<text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`+"\n", x1, y1+15, short(s))
	}
	for i, name := range names {
		colour := colours[i%len(colours)]
		var path []string
		for _, p := range curves[name] {
			px, py := at(p)
			path = append(path, fmt.Sprintf("%.1f,%.1f", px, py))
			fmt.Printf(`<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", px, py, colour)
		}
		fmt.Printf(`<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(path, " "), colour)
		fmt.Printf(`<text x="%d" y="%d" fill="%s">%s</text>`+"\n", x+left+8+i*60, y+height-8, colour, name)
	}
}

// short writes a size in thousands or millions.
func short(n float64) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%g M", n/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%g k", n/1e3)
	}
	return fmt.Sprintf("%g", n)
}
