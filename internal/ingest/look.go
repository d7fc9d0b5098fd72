package ingest

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"image/color"
	"math"
	"net/http"
	"strconv"
	"strings"

	"wxtoken/internal/lang"
	"wxtoken/internal/settings"
)

//go:embed page.css
var baseCSS string

// prefixAssets begins the paths of what pages load: style sheets and logos. No link has an id that
// short.
const prefixAssets = prefixConnect + "-/"

// look is how the pages of one component look, and what they call it.
type look struct {
	who     lang.Text // who asks
	named   bool      // by its settings
	contact lang.Text
	sets    []int // permission sets that WeChat asks for where a link names none
	style   asset
	logo    asset // of no path: none
}

// asset is what a page loads by a path with a digest of the content: it can be kept for ever.
type asset struct {
	path, contentType, content string
}

// newLook returns the look of a component, "" for one that is not known.
func newLook(component string, p settings.Page) *look {
	l := &look{
		who:   lang.T("the service provider", "服务商"),
		named: p.Name != "", contact: inBoth(p.Contact, p.ContactEN), sets: p.CategoryIDs,
	}
	if l.named {
		l.who = inBoth(p.Name, p.NameEN)
	}
	l.style = newAsset(component, ".css", "text/css; charset=utf-8", baseCSS+colours(p.Color))
	if p.Logo != "" {
		l.logo = newAsset(component, ".logo", p.LogoType, p.Logo)
	}
	return l
}

// inBoth returns a text of the settings, whose English is the Chinese one where there is none.
func inBoth(zh, en string) lang.Text {
	if en == "" {
		en = zh
	}
	return lang.Given(en, zh)
}

func newAsset(component, suffix, contentType, content string) asset {
	sum := sha256.Sum256([]byte(content))
	if component == "" {
		component = "any"
	}
	return asset{prefixAssets + component + "/" + hex.EncodeToString(sum[:8]) + suffix, contentType, content}
}

// looks are those of all components, and one for pages that know of none.
type looks struct {
	of      map[string]*look
	unknown *look
	assets  map[string]asset
}

func newLooks(components []settings.Component) *looks {
	l := &looks{of: map[string]*look{}, assets: map[string]asset{}}
	for _, c := range components {
		l.of[c.AppID] = newLook(c.AppID, c.Page)
		l.add(l.of[c.AppID])
	}
	l.unknown = newLook("", settings.Page{})
	if len(components) == 1 { // whose else should a link be
		l.unknown = l.of[components[0].AppID]
	}
	l.add(l.unknown)
	return l
}

func (l *looks) add(one *look) {
	l.assets[one.style.path] = one.style
	if one.logo.path != "" {
		l.assets[one.logo.path] = one.logo
	}
}

// lookOf returns the look of a component, of "" as well.
func (l *looks) lookOf(component string) *look {
	if one, ok := l.of[component]; ok {
		return one
	}
	return l.unknown
}

// find returns what a page loads, and whether that is of the very content that the path names.
// While processes of two settings run side by side, a page of one may ask the other: then today's
// is better than none.
func (l *looks) find(path string) (found asset, exact, ok bool) {
	if found, ok = l.assets[path]; ok {
		return found, true, true
	}
	component, _, _ := strings.Cut(strings.TrimPrefix(path, prefixAssets), "/")
	one := l.lookOf(component)
	switch {
	case !strings.HasPrefix(path, prefixAssets):
		return asset{}, false, false
	case strings.HasSuffix(path, ".css"):
		found = one.style
	case strings.HasSuffix(path, ".logo"):
		found = one.logo
	}
	return found, false, found.path != ""
}

// serveAsset answers with what a page loads, and reports whether there is something of that path.
func (i *Ingest) serveAsset(w http.ResponseWriter, r *http.Request) bool {
	if !strings.HasPrefix(r.URL.Path, prefixAssets) || r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	found, exact, ok := i.looks.Load().find(r.URL.Path)
	if !ok {
		return false
	}
	h := w.Header()
	h.Set("Content-Type", found.contentType)
	h.Set("Content-Length", strconv.Itoa(len(found.content)))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	// An SVG is a document, too: opened by itself it runs nothing and loads nothing.
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox")
	h.Set("Cache-Control", "no-store")
	if exact {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	w.WriteHeader(http.StatusOK)
	_, _ = strings.NewReader(found.content).WriteTo(w) // a browser that has gone is no concern of ours
	return true
}

// The grounds on which links stand where they are hardest to read; in page.css they are called
// soft.
var (
	lightGround = color.RGBA{0xf4, 0xf6, 0xf5, 0xff}
	darkGround  = color.RGBA{0x23, 0x28, 0x26, 0xff}
	white       = color.RGBA{0xff, 0xff, 0xff, 0xff}
	black       = color.RGBA{0x00, 0x00, 0x00, 0xff}
)

// defaultColour is that of buttons where no other is set.
const defaultColour = "#07773f"

// The contrast that text needs, and what is no text (WCAG 2, level AA).
const (
	readable = 4.5
	visible  = 3
)

// colours returns the part of a style sheet that a component's colour makes. A button has that
// colour, or one so near that white can be read on it; where that is far, its text is black. Its
// edge, and links, have the next colour that can be read on the card.
func colours(hex string) string {
	if hex == "" {
		hex = defaultColour
	}
	button, on := parseColour(hex), white
	if contrast(white, button) >= visible {
		button = shift(button, black, white)
	} else {
		on = black
	}
	scheme := func(ground, towards color.RGBA) string {
		return fmt.Sprintf("--button: %s; --on-button: %s; --edge: %s;", css(button), css(on), css(shift(button, towards, ground)))
	}
	return "\n:root { " + scheme(lightGround, black) + " }\n@media (prefers-color-scheme: dark) { :root { " + scheme(darkGround, white) + " } }\n"
}

func parseColour(hex string) color.RGBA {
	n, _ := strconv.ParseUint(strings.TrimPrefix(hex, "#"), 16, 32) // the settings were checked
	return color.RGBA{uint8(n >> 16), uint8(n >> 8), uint8(n), 0xff}
}

func css(c color.RGBA) string { return fmt.Sprintf("#%02x%02x%02x", c.R, c.G, c.B) }

// shift returns the colour next to c on the way towards another that can be read on the ground.
func shift(c, towards, ground color.RGBA) color.RGBA {
	const steps = 20
	mixed := c
	for n := 1; n <= steps && contrast(mixed, ground) < readable; n++ {
		mix := func(from, to uint8) uint8 { return uint8((int(from)*(steps-n) + int(to)*n) / steps) }
		mixed = color.RGBA{mix(c.R, towards.R), mix(c.G, towards.G), mix(c.B, towards.B), 0xff}
	}
	return mixed
}

// contrast is WCAG's, from 1 to 21.
func contrast(a, b color.RGBA) float64 {
	la, lb := luminance(a), luminance(b)
	return (max(la, lb) + .05) / (min(la, lb) + .05)
}

func luminance(c color.RGBA) float64 {
	linear := func(v uint8) float64 {
		if s := float64(v) / 255; s > .04045 {
			return math.Pow((s+.055)/1.055, 2.4)
		}
		return float64(v) / 255 / 12.92
	}
	return .2126*linear(c.R) + .7152*linear(c.G) + .0722*linear(c.B)
}
