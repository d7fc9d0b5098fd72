package ingest_test

import (
	"fmt"
	"math"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"wxtoken/internal/events"
	"wxtoken/internal/natsd/natsdtest"
	"wxtoken/internal/settings"
)

// TestAssets loads what a page of a branded component names, and what none names.
func TestAssets(t *testing.T) {
	t.Parallel()
	srv := natsdtest.Start(t)
	r := newRig(t, srv)
	f := newRefresher(t, srv)
	other := componentWith(settings.Page{Name: "另一家", Color: "#ffd400"})
	other.AppID = "wx0ther0000000000"
	if err := r.ingest.SetComponents([]settings.Component{componentWith(brand), other}); err != nil {
		t.Fatal(err)
	}
	at := r.serve(t)
	load := func(path string) (int, http.Header, string) { return get(path, "").send(t, at) }

	_, header, body := load(linkPath)
	all := checkPage(t, header, body, "zh-CN", "strict-origin-when-cross-origin")
	style := find(all, "link")[0].attr["href"]
	status, header, css := load(style)
	if status != http.StatusOK || header.Get("Content-Type") != "text/css; charset=utf-8" || header.Get("Cache-Control") != "public, max-age=31536000, immutable" || !strings.Contains(css, "--button: #") {
		t.Errorf("%s: %d %v", style, status, header)
	}
	logo := find(all, "img")[0].attr["src"]
	status, header, content := load(logo)
	if status != http.StatusOK || header.Get("Content-Type") != "image/svg+xml" || content != brand.Logo {
		t.Errorf("%s: %d %v", logo, status, header)
	}
	for name, want := range map[string]string{
		"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox", "X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin",
		"Content-Length": strconv.Itoa(len(brand.Logo)), "Set-Cookie": "",
	} {
		if got := header.Get(name); got != want {
			t.Errorf("header %s of the logo is %q, want %q", name, got, want)
		}
	}

	f.set(func(l *link) { l.Component = other.AppID })
	_, header, body = load(linkPath)
	all = checkPage(t, header, body, "zh-CN", "strict-origin-when-cross-origin")
	if its := find(all, "link")[0].attr["href"]; its == style || !strings.Contains(body, "另一家") || strings.Contains(body, brand.Name) {
		t.Error("the page of another component looks like that of the first")
	}
	// A link that does not exist belongs to no component.
	f.set(func(l *link) { l.code = http.StatusNotFound })
	_, header, body = load(linkPath)
	checkPage(t, header, body, "zh-CN", "strict-origin-when-cross-origin")
	if strings.Contains(body, brand.Name) || strings.Contains(body, "另一家") || !strings.Contains(body, "向服务商索取") {
		t.Errorf("a link that does not exist shows a component: %s", body)
	}

	// While two settings run side by side.
	outdated := regexp.MustCompile(`[0-9a-f]{16}`).ReplaceAllString(style, "0123456789abcdef")
	if status, header, again := load(outdated); status != http.StatusOK || again != css || header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s: %d %v", outdated, status, header)
	}
	for _, path := range []string{"/connect/-/", "/connect/-/" + component, "/connect/-/" + component + "/page.json", "/connect/-/" + other.AppID + "/x.logo", "/connect/-"} {
		if status, _, body := load(path); status != http.StatusNotFound {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	head := get(style, "")
	head.method = http.MethodHead
	if status, _, body := head.send(t, at); status != http.StatusOK || body != "" {
		t.Errorf("HEAD: %d %q", status, body)
	}
	post := get(style, "")
	post.method = http.MethodPost
	if status, _, _ := post.send(t, at); status != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", status)
	}
}

// TestPermissionsShown: a link's own permission sets are shown as they are, those of the settings where they fit the kind of
// account.
func TestPermissionsShown(t *testing.T) {
	t.Parallel()
	srv := natsdtest.Start(t)
	r := newRig(t, srv)
	f := newRefresher(t, srv)
	at := r.serve(t)
	for _, row := range []struct {
		name     string
		page     settings.Page
		link     events.Category
		authType int
		only     string
		want     string // with spaces between
	}{
		{"nothing known", settings.Page{}, nil, 3, "", ""},
		{"of the settings", settings.Page{CategoryIDs: []int{18, 1, 130, 161}}, nil, 3, "", "消息管理 小程序开发与数据分析 微信客服管理"},
		{"for official accounts", settings.Page{CategoryIDs: []int{18, 1, 130}}, nil, 1, "", "消息管理"},
		{"for mini programs", settings.Page{CategoryIDs: []int{18, 1, 130}}, nil, 2, "", "小程序开发与数据分析"},
		{"for all", settings.Page{CategoryIDs: []int{18, 1, 130}}, nil, 6, "", "消息管理 小程序开发与数据分析 视频号小店物流管理"},
		{"for one account", settings.Page{CategoryIDs: []int{18, 1}}, nil, 1, authorizer, "消息管理 小程序开发与数据分析"},
		{"of the link", settings.Page{CategoryIDs: []int{18, 1}}, events.Category{3, 7777}, 2, "", "账号服务 权限集 7777"},
	} {
		if err := r.ingest.SetComponents([]settings.Component{componentWith(row.page)}); err != nil {
			t.Fatal(err)
		}
		f.set(func(l *link) { l.CategoryIDs, l.AuthType, l.BizAppID = row.link, row.authType, row.only })
		_, header, body := get(linkPath, "", "User-Agent", onPhone).send(t, at)
		var names []string
		_, list, _ := strings.Cut(body, `id="sets"`)
		list, _, _ = strings.Cut(list, "</section>")
		for _, e := range find(elements(t, "<ul>"+strings.Join(regexp.MustCompile(`<li>[^<]*</li>`).FindAllString(list, -1), "")+"</ul>"), "li") {
			names = append(names, e.text)
		}
		checkPage(t, header, body, "zh-CN", "strict-origin-when-cross-origin")
		if got := strings.Join(names, " "); got != row.want {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
	}
}

// TestColours tries colours from all over the cube: on each of them a button's text can be read, and links on each ground.
func TestColours(t *testing.T) {
	t.Parallel()
	srv := natsdtest.Start(t)
	r := newRig(t, srv)
	at := r.serve(t)
	variables := regexp.MustCompile(`--button: (#\w{6}); --on-button: (#\w{6}); --edge: (#\w{6});`)
	steps := []int{0x00, 0x33, 0x66, 0x80, 0xa6, 0xcc, 0xff}
	for _, red := range steps {
		for _, green := range steps {
			for _, blue := range steps {
				colour := fmt.Sprintf("#%02x%02X%02x", red, green, blue)
				if err := r.ingest.SetComponents([]settings.Component{componentWith(settings.Page{Name: "n", Color: colour})}); err != nil {
					t.Fatal(err)
				}
				_, _, css := get("/connect/-/"+component+"/any.css", "").send(t, at)
				found := variables.FindAllStringSubmatch(css, -1)
				if len(found) != 2 {
					t.Fatalf("%s: %q", colour, found)
				}
				for n, ground := range []string{"#f4f6f5", "#232826"} { // --soft of page.css
					button, on, edge := found[n][1], found[n][2], found[n][3]
					if !strings.Contains(css, "--soft: "+ground) || contrastOf(t, button, on) < 4.5 || contrastOf(t, edge, ground) < 4.5 {
						t.Errorf("%s: text %s on a button %s, edge %s on %s", colour, on, button, edge, ground)
					}
				}
			}
		}
	}
}

// contrastOf is the contrast of two colours as WCAG 2 has it.
func contrastOf(t *testing.T, a, b string) float64 {
	t.Helper()
	luminance := func(colour string) (sum float64) {
		for n, weight := range []float64{.2126, .7152, .0722} {
			v, err := strconv.ParseUint(colour[1+2*n:3+2*n], 16, 8)
			if err != nil {
				t.Fatal(err)
			}
			s := float64(v) / 255
			if s <= .04045 {
				s /= 12.92
			} else {
				s = math.Pow((s+.055)/1.055, 2.4)
			}
			sum += weight * s
		}
		return sum
	}
	la, lb := luminance(a), luminance(b)
	return (max(la, lb) + .05) / (min(la, lb) + .05)
}
