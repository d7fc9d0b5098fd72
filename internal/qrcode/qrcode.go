// Package qrcode draws QR codes for pages.
package qrcode

import (
	"encoding/base64"
	"fmt"
	"html/template"
	"strings"

	"rsc.io/qr"
)

// Code is a QR code as the path of an SVG, one unit for each module. The zero Code is none.
type Code struct {
	Size int // with the quiet zone
	Path string
}

// quietZone is the white edge that a scanner needs, in modules.
const quietZone = 4

// New returns the code of a text; none for an empty text, and for one that is too long.
func New(text string) Code {
	code, err := qr.Encode(text, qr.M)
	if err != nil || text == "" {
		return Code{}
	}
	var path strings.Builder
	for y := range code.Size {
		for x := 0; x < code.Size; x++ {
			from := x
			for x < code.Size && code.Black(x, y) {
				x++
			}
			if x > from {
				fmt.Fprintf(&path, "M%d %dh%dv1h-%dz", from+quietZone, y+quietZone, x-from, x-from)
			}
		}
	}
	return Code{Size: code.Size + 2*quietZone, Path: path.String()}
}

// Picture returns the code of a text as a picture within the page: one that can be pressed and
// saved on a phone. It is empty where New has none.
func Picture(text string) template.URL {
	code, err := qr.Encode(text, qr.M)
	if err != nil || text == "" {
		return ""
	}
	// Our own picture.
	return template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(code.PNG())) //nolint:gosec
}
