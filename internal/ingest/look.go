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

// prefixAssets begins the paths of style sheets and logos. No link has an id as short as "-".
const prefixAssets = prefixConnect + "-/"

// look is the appearance of one component's pages, and what they call the component.
type look struct {
	who     lang.Text // who asks for the authorization
	named   bool      // who is from the settings
	contact lang.Text
	sets    []int // permission sets that WeChat asks for if a link names none
	style   asset
	logo    asset // with an empty path if there is none
}

// asset is a file that pages load. Its path contains a digest of its content, so browsers can cache
// it for ever.
type asset struct {
	path, contentType, content string
}

// newLook returns the look of a component; "" stands for an unknown one.
func newLook(component string, p settings.Page) *look {
	l := &look{
		who:   lang.T("the service provider", "服务商"),
		named: p.Name != "", contact: bothLanguages(p.Contact, p.ContactEN), sets: p.CategoryIDs,
	}
	if l.named {
		l.who = bothLanguages(p.Name, p.NameEN)
	}
	l.style = newAsset(component, ".css", "text/css; charset=utf-8", baseCSS+colours(p.Color))
	if p.Logo != "" {
		l.logo = newAsset(component, ".logo", p.LogoType, p.Logo)
	}
	return l
}

// bothLanguages returns a text of the settings; without an English one it is the Chinese one in
// both languages.
func bothLanguages(zh, en string) lang.Text {
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

// looks are the looks of all components, and one for pages without a known component.
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
	if len(components) == 1 { // then every link is of this component
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

// lookOf returns the look of a component, or that for unknown ones.
func (l *looks) lookOf(component string) *look {
	if one, ok := l.of[component]; ok {
		return one
	}
	return l.unknown
}

// find returns the asset of a path. exact reports whether its content is that of the path's digest.
// While processes with different settings run side by side, a page from one may load its assets
// from the other: then the current asset is better than none.
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

// serveAsset answers with an asset, and reports whether there is one at that path.
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
	// An SVG is a document, too: opened by itself it must run nothing and load nothing.
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox")
	h.Set("Cache-Control", "no-store")
	if exact {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	w.WriteHeader(http.StatusOK)
	_, _ = strings.NewReader(found.content).WriteTo(w) // the browser may have gone
	return true
}

// The backgrounds on which links are hardest to read; page.css calls them soft.
var (
	lightGround = color.RGBA{0xf4, 0xf6, 0xf5, 0xff}
	darkGround  = color.RGBA{0x23, 0x28, 0x26, 0xff}
	white       = color.RGBA{0xff, 0xff, 0xff, 0xff}
	black       = color.RGBA{0x00, 0x00, 0x00, 0xff}
)

// defaultColour is the colour of buttons if the settings have none.
const defaultColour = "#07773f"

// The contrast that text needs, and that other things need (WCAG 2, level AA).
const (
	readable = 4.5
	visible  = 3
)

// colours returns the part of a style sheet that depends on a component's colour. A button has that
// colour, or a slightly darker one on which white text can be read; if it would have to be much
// darker, its text is black instead. Its edge, and links, have the nearest colour that can be read
// on the background.
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

// shift returns the first colour from c towards another that can be read on the ground.
func shift(c, towards, ground color.RGBA) color.RGBA {
	const steps = 20
	mixed := c
	for n := 1; n <= steps && contrast(mixed, ground) < readable; n++ {
		mix := func(from, to uint8) uint8 { return uint8((int(from)*(steps-n) + int(to)*n) / steps) }
		mixed = color.RGBA{mix(c.R, towards.R), mix(c.G, towards.G), mix(c.B, towards.B), 0xff}
	}
	return mixed
}

// contrast returns WCAG's contrast ratio, from 1 to 21.
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
