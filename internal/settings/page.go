package settings

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"image"
	_ "image/jpeg" // logos
	_ "image/png"  //
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of the content of a page.
const (
	maxPageFile   = 16 << 10  // bytes
	maxLogo       = 128 << 10 // bytes
	maxLogoSide   = 2048      // pixels: a small file can unpack to more than a phone can hold
	maxPageName   = 40        // characters
	maxContact    = 120       // characters
	maxCategories = 200
)

// Page is what merchants read about a component on the pages of its authorization links. The zero Page says
// nothing.
type Page struct {
	Name        string `json:"name"`             // of the platform
	NameEN      string `json:"name_en"`          // in English, if it differs
	Contact     string `json:"contact"`          // whom to ask for a new link, and how
	ContactEN   string `json:"contact_en"`       //
	Color       string `json:"color"`            // of buttons, #rrggbb
	CategoryIDs []int  `json:"category_id_list"` // permission sets to ask for if a link names none: the released ones
	LogoFile    string `json:"logo"`             // name of a picture in the same folder

	Logo     string `json:"-"` // the picture itself
	LogoType string `json:"-"` // its Content-Type
}

// ReadPage reads a page file and its logo. The error says all that is wrong.
func ReadPage(file string) (Page, error) {
	content, err := readBounded(file, maxPageFile)
	if err != nil {
		return Page{}, err
	}
	var p Page
	d := json.NewDecoder(bytes.NewReader(content))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return Page{}, fmt.Errorf("%s: %w (want JSON with name, and optionally name_en, contact, contact_en, color, logo, category_id_list)", file, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Page{}, fmt.Errorf("%s: text after the JSON object", file)
	}
	faults := p.faults()
	if p.LogoFile != "" {
		faults = append(faults, p.readLogo(filepath.Dir(file)))
	}
	for i, fault := range faults {
		if fault != nil {
			faults[i] = fmt.Errorf("%s: %w", file, fault)
		}
	}
	return p, errors.Join(faults...)
}

var color = regexp.MustCompile(`^#[0-9a-fA-F]{6}$`)

// faults returns what is wrong with the texts of a page.
func (p Page) faults() (faults []error) {
	for _, text := range []struct {
		field, text string
		most        int
	}{
		{"name", p.Name, maxPageName}, {"name_en", p.NameEN, maxPageName},
		{"contact", p.Contact, maxContact}, {"contact_en", p.ContactEN, maxContact},
	} {
		unprintable := func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }
		if utf8.RuneCountInString(text.text) > text.most || strings.ContainsFunc(text.text, unprintable) {
			faults = append(faults, fmt.Errorf("%s: want at most %d characters on one line", text.field, text.most))
		}
	}
	if strings.TrimSpace(p.Name) == "" {
		faults = append(faults, errors.New("name: empty (want the name under which merchants know you)"))
	}
	if p.Color != "" && !color.MatchString(p.Color) {
		faults = append(faults, errors.New("color: want # and six hex digits, for instance #07773f"))
	}
	if len(p.CategoryIDs) > maxCategories || slices.ContainsFunc(p.CategoryIDs, func(id int) bool { return id <= 0 }) {
		faults = append(faults, errors.New("category_id_list: want ids of permission sets, for instance [1, 2, 18]"))
	}
	return faults
}

// readLogo reads the logo. Its type is that of the content, whatever its name.
func (p *Page) readLogo(dir string) error {
	if filepath.Base(p.LogoFile) != p.LogoFile || strings.HasPrefix(p.LogoFile, ".") {
		return errors.New("logo: want the name of a file in the same folder")
	}
	content, err := readBounded(filepath.Join(dir, p.LogoFile), maxLogo)
	if err != nil {
		return fmt.Errorf("logo: %w", err)
	}
	p.Logo, p.LogoType = string(content), http.DetectContentType(content)
	switch p.LogoType {
	case "image/png", "image/jpeg":
		size, _, err := image.DecodeConfig(bytes.NewReader(content))
		if err != nil || size.Width > maxLogoSide || size.Height > maxLogoSide {
			return fmt.Errorf("logo: %s can't be read, or has more than %d pixels a side", p.LogoFile, maxLogoSide)
		}
	case "image/webp":
	default:
		if !isSVG(content) {
			return fmt.Errorf("logo: %s is not a PNG, JPEG, WebP or SVG", p.LogoFile)
		}
		p.LogoType = "image/svg+xml"
	}
	return nil
}

// isSVG reports whether content is an XML document whose root is svg. Document types are refused: with entities a
// small file could unpack to a huge picture.
func isSVG(content []byte) bool {
	d := xml.NewDecoder(bytes.NewReader(content))
	for root := ""; ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return root == "svg"
		}
		if err != nil {
			return false
		}
		switch token := token.(type) {
		case xml.Directive:
			return false
		case xml.StartElement:
			if root == "" {
				root = token.Name.Local
			}
		}
	}
}

// readBounded reads a file of at most limit bytes.
func readBounded(name string, limit int64) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // it was only read
	content, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = fmt.Errorf("%s has more than %d KiB", name, limit>>10)
	}
	return content, err
}
