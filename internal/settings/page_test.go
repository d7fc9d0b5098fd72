package settings_test

import (
	"bytes"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"wxtoken/client"
	"wxtoken/internal/settings"
)

// pngOf returns a picture of that size.
func pngOf(t *testing.T, width, height int) string {
	t.Helper()
	var out bytes.Buffer
	if err := png.Encode(&out, image.NewGray(image.Rect(0, 0, width, height))); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

const svg = `<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"><path d="M0 0h1v1z"/></svg>`

// TestPage reads what merchants are told, from a components directory and by the flag.
func TestPage(t *testing.T) {
	t.Parallel()
	const text = `{"name": "示例服务商", "name_en": "Example Services", "contact": "客服电话 400-000-0000", "color": "#1a6dff",
		"category_id_list": [1, 18], "logo": "logo.svg"}`
	files := tree(t, map[string]string{
		"components/wxaaaa/token": "t", "components/wxaaaa/aes_key": aesKey, "components/wxaaaa/page.json": text, "components/wxaaaa/logo.svg": svg,
		"components/wxbbbb/token": "t", "components/wxbbbb/aes_key": aesKey,
	})
	want := settings.Page{
		Name: "示例服务商", NameEN: "Example Services", Contact: "客服电话 400-000-0000", Color: "#1a6dff",
		CategoryIDs: []int{1, 18}, LogoFile: "logo.svg", Logo: svg, LogoType: "image/svg+xml",
	}
	got, err := settings.LoadComponents(settings.ComponentSettings{ComponentsDir: filepath.Join(files, "components")}, nil, &settings.PushSettings{})
	if err != nil || len(got) != 2 || !reflect.DeepEqual(got[0].Page, want) || !reflect.DeepEqual(got[1].Page, settings.Page{}) {
		t.Errorf("the folders: %+v, %v", got, err)
	}
	got, err = settings.LoadComponents(settings.ComponentSettings{ComponentAppid: appid}, nil, &settings.PushSettings{
		ComponentToken: wxtoken.NewSecret("t"), ComponentAesKey: wxtoken.NewSecret(aesKey),
		ComponentPageFile: filepath.Join(files, "components/wxaaaa/page.json"),
	})
	if err != nil || len(got) != 1 || !reflect.DeepEqual(got[0].Page, want) {
		t.Errorf("the flag: %+v, %v", got, err)
	}
	got, err = settings.LoadComponents(settings.ComponentSettings{ComponentAppid: appid}, nil, &settings.PushSettings{
		ComponentToken: wxtoken.NewSecret("t"), ComponentAesKey: wxtoken.NewSecret(aesKey), ComponentPageFile: filepath.Join(files, "nothing"),
	})
	if err == nil || !strings.Contains(err.Error(), "--component-page-file (WXTOKEN_COMPONENT_PAGE_FILE)") {
		t.Errorf("a file that is not there: %+v, %v", got, err)
	}
}

// TestReadPage tries each thing that can be wrong with a page, and each kind of logo.
func TestReadPage(t *testing.T) {
	t.Parallel()
	logo := func(file string) string { return `{"name": "n", "logo": "` + file + `"}` }
	for _, row := range []struct {
		name, page string
		files      map[string]string
		logoType   string
		want       string // part of the error, empty: none
	}{
		{"a name alone", `{"name": "n"}`, nil, "", ""},
		{"PNG", logo("l"), map[string]string{"l": pngOf(t, 64, 64)}, "image/png", ""},
		{"WebP", logo("l.webp"), map[string]string{"l.webp": "RIFF\x1a\x00\x00\x00WEBPVP8L\x0d\x00\x00\x00\x2f\x00\x00\x00\x10\x07\x10\x11\x11\x88\x88\xfe\x07\x00"}, "image/webp", ""},
		{"SVG", logo("l.svg"), map[string]string{"l.svg": svg}, "image/svg+xml", ""},
		{"no JSON", `name`, nil, "", "invalid character"},
		{"unknown field", `{"name": "n", "colour": "#000000"}`, nil, "", `unknown field "colour"`},
		{"two documents", `{"name": "n"} {}`, nil, "", "text after"},
		{"no name", `{}`, nil, "", "name: empty"},
		{"a name of spaces", `{"name": "  "}`, nil, "", "name: empty"},
		{"a long name", `{"name": "` + strings.Repeat("名", 41) + `"}`, nil, "", "name: want at most 40"},
		{"two lines", `{"name": "a\nb"}`, nil, "", "name: want"},
		{"a bidi mark", `{"name": "a\u202eb"}`, nil, "", "name: want"},
		{"a contact of a page", `{"name": "n", "contact": "` + strings.Repeat("x", 121) + `"}`, nil, "", "contact: want at most 120"},
		{"a colour by name", `{"name": "n", "color": "red"}`, nil, "", "color: want #"},
		{"a colour that closes a rule", `{"name": "n", "color": "#000;}"}`, nil, "", "color: want #"},
		{"ids", `{"name": "n", "category_id_list": [0]}`, nil, "", "category_id_list"},
		{"logo elsewhere", logo("../l"), nil, "", "in the same folder"},
		{"logo in a folder", logo("a/l"), nil, "", "in the same folder"},
		{"logo that is not there", logo("l"), nil, "", "no such file"},
		{"logo that is a page", logo("l"), map[string]string{"l": "<!DOCTYPE html><script>alert(1)</script>"}, "", "is not a PNG"},
		{"logo with entities", logo("l"), map[string]string{"l": `<!DOCTYPE svg [<!ENTITY a "b">]>` + svg[21:]}, "", "is not a PNG"},
		{"half an SVG", logo("l"), map[string]string{"l": svg[:len(svg)-3]}, "", "is not a PNG"},
		{"half a PNG", logo("l"), map[string]string{"l": pngOf(t, 64, 64)[:20]}, "", "can't be read"},
		{"logo of many pixels", logo("l"), map[string]string{"l": pngOf(t, 2049, 1)}, "", "more than 2048 pixels"},
		{"logo of many bytes", logo("l"), map[string]string{"l": svg + strings.Repeat(" ", 128<<10)}, "", "more than 128 KiB"},
		{"page of many bytes", `{"name": "n"` + strings.Repeat(" ", 16<<10) + `}`, nil, "", "more than 16 KiB"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{"page.json": row.page}
			for name, content := range row.files {
				files[name] = content
			}
			got, err := settings.ReadPage(filepath.Join(tree(t, files), "page.json"))
			switch {
			case row.want == "" && (err != nil || got.LogoType != row.logoType):
				t.Errorf("%q, %v; want %q", got.LogoType, err, row.logoType)
			case row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)):
				t.Errorf("%v, want %q", err, row.want)
			}
		})
	}
}

// TestPageOfTheDocs reads the example of the docs.
func TestPageOfTheDocs(t *testing.T) {
	t.Parallel()
	for _, doc := range []string{"services.md", "services.zh-CN.md"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "docs", doc))
		if err != nil {
			t.Fatal(err)
		}
		_, example, _ := strings.Cut(string(text), "```json\n{\n  \"name\"")
		example, _, _ = strings.Cut(example, "```")
		files := tree(t, map[string]string{"page.json": `{"name"` + example, "logo.png": pngOf(t, 128, 128)})
		if got, err := settings.ReadPage(filepath.Join(files, "page.json")); err != nil || got.NameEN != "Example Shop" {
			t.Errorf("%s: %+v, %v", doc, got, err)
		}
	}
}
