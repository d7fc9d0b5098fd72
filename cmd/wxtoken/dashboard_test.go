//go:build unix

package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"wxtoken/internal/logtest"
	"wxtoken/internal/services"
	"wxtoken/wechatsim"
)

// dashboard is what deploy/grafana/wxtoken.json has of Grafana's model of a dashboard ("Dashboard JSON model"). Fields that it doesn't
// have are refused, so that one that is misspelled is noticed.
type dashboard struct {
	UID           string   `json:"uid"`
	Title         string   `json:"title"`
	Description   string   `json:"description"`
	Tags          []string `json:"tags"`
	SchemaVersion int      `json:"schemaVersion"`
	Version       int      `json:"version"`
	Editable      bool     `json:"editable"`
	GraphTooltip  int      `json:"graphTooltip"`
	Timezone      string   `json:"timezone"`
	Refresh       string   `json:"refresh"`
	Time          struct{ From, To string }
	Links         []any `json:"links"`
	Annotations   struct {
		List []struct {
			Name, Type, IconColor, Expr string
			Datasource                  source
			Enable, Hide                bool
		}
	} `json:"annotations"`
	Templating struct {
		List []struct {
			Name, Label, Type, Definition, Regex, AllValue string
			Datasource                                     source
			Query                                          any
			Hide, Refresh, Sort                            int
			Multi, IncludeAll                              bool
			Options                                        []any
			Current                                        any
		}
	} `json:"templating"`
	Panels []panel `json:"panels"`
}

type source struct{ Type, UID string }

type panel struct {
	ID          int    `json:"id"`
	Type        string `json:"type"`
	Title       string `json:"title"`
	Description string `json:"description"`
	Collapsed   bool
	Panels      []panel
	Datasource  source
	GridPos     struct{ H, W, X, Y int }
	Targets     []struct {
		RefID, Expr, LegendFormat string
		Datasource                source
		Range, Instant            bool
	}
	Options     map[string]any
	FieldConfig struct {
		Defaults struct {
			Unit       string
			Min        *float64
			Color      map[string]any
			Custom     map[string]any
			Thresholds struct {
				Mode  string
				Steps []struct {
					Color string
					Value *float64
				}
			}
		}
		Overrides []any
	}
}

// queries returns the expressions of all panels, and what else Prometheus is asked.
func (d dashboard) queries() (exprs []string) {
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			exprs = append(exprs, target.Expr)
		}
	}
	return exprs
}

// readDashboard reads the file and looks at its structure: panels of kinds that are used here, each in a place of its own on the grid of
// 24 columns, with ids and sources of data.
func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	text, err := os.ReadFile("../../deploy/grafana/wxtoken.json")
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&d); err != nil {
		t.Fatal(err)
	}
	taken, ids := map[[2]int]string{}, map[int]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.ID == 0 || p.Title == "" {
			t.Errorf("panel %d %q: no id or title of its own", p.ID, p.Title)
		}
		ids[p.ID] = true
		if !slices.Contains([]string{"row", "stat", "timeseries", "state-timeline"}, p.Type) {
			t.Errorf("%s: of the kind %q", p.Title, p.Type)
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("%s lies on %s, or beyond column 24", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type != "row" && (len(p.Targets) == 0 || p.Datasource != source{"prometheus", "${datasource}"}) {
			t.Errorf("%s: asks nothing, or a source of its own", p.Title)
		}
		for i, target := range p.Targets {
			if target.RefID != string(rune('A'+i)) || target.Datasource != p.Datasource {
				t.Errorf("%s: target %d is %+v", p.Title, i, target)
			}
		}
	}
	return d
}

var (
	metricName = regexp.MustCompile(`\b(?:wxtoken|process|go)_\w+`)
	matchers   = regexp.MustCompile(`\b((?:wxtoken|process|go)_\w+)\{([^}]*)\}`)
	labelName  = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)`)
	grouping   = regexp.MustCompile(`\bby \(([^)]*)\)`)
	legend     = regexp.MustCompile(`\{\{(\w+)\}\}`)
)

// TestDashboard has each query of the dashboard parsed by promtool, and looks for each metric and label that it names in /metrics of a
// wxtoken that runs, with a gateway, a webhook and a receiver of notices. Beside those only what Prometheus adds is there: instance.
func TestDashboard(t *testing.T) {
	t.Parallel()
	d := readDashboard(t)
	parseQueries(t, d.queries())
	labels := map[string]map[string]bool{}
	within(t, 3*time.Minute, "all metrics of the dashboard", func() func() error {
		ops, gateway, control := simulateAll(t)
		return func() error {
			res, err := http.PostForm(control+"/push", url.Values{"authorizer": {"wxa000000000000001"}, "content": {"hello"}}) // for the webhook
			if err != nil {
				return err
			}
			_ = res.Body.Close()
			answer, err := fetchBody(gateway + "/cgi-bin/token?grant_type=client_credential&appid=wxa000000000000001&secret=" + demoKey)
			if err != nil {
				return err
			}
			var token struct {
				Value string `json:"access_token"`
			}
			if err := json.Unmarshal([]byte(answer), &token); err != nil || token.Value == "" {
				return fmt.Errorf("no token: %s", answer)
			}
			if _, err := fetchBody(gateway + "/cgi-bin/getcallbackip?access_token=" + token.Value); err != nil {
				return err
			}
			text, err := fetchBody(ops + "/metrics")
			if err != nil {
				return err
			}
			labels = labelsOf(text)
			for _, expr := range d.queries() {
				for _, name := range metricName.FindAllString(expr, -1) {
					if labels[name] == nil {
						return fmt.Errorf("%s is not in /metrics: %s", name, expr)
					}
				}
			}
			return nil
		}
	}())
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			known := map[string]bool{"instance": true}
			for _, name := range metricName.FindAllString(target.Expr, -1) {
				for label := range labels[name] {
					known[label] = true
				}
			}
			for _, m := range matchers.FindAllStringSubmatch(target.Expr, -1) {
				for _, label := range labelName.FindAllStringSubmatch(m[2], -1) {
					if !labels[m[1]][label[1]] {
						t.Errorf("%s: %s has no label %s: %s", p.Title, m[1], label[1], target.Expr)
					}
				}
			}
			kept := map[string]bool{}
			for _, m := range grouping.FindAllStringSubmatch(target.Expr, -1) {
				for label := range strings.SplitSeq(m[1], ",") {
					kept[strings.TrimSpace(label)] = true
					if !known[strings.TrimSpace(label)] {
						t.Errorf("%s: there is no label %s: %s", p.Title, label, target.Expr)
					}
				}
			}
			for _, m := range legend.FindAllStringSubmatch(target.LegendFormat, -1) {
				if !known[m[1]] || len(kept) > 0 && !kept[m[1]] {
					t.Errorf("%s: its legend has {{%s}}, which is not in %s", p.Title, m[1], target.Expr)
				}
			}
		}
	}
}

// parseQueries has promtool read all queries, as recording rules.
func parseQueries(t *testing.T, exprs []string) {
	t.Helper()
	if len(exprs) < 20 {
		t.Fatalf("only %d queries", len(exprs))
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Log("no promtool (Debian's package prometheus): the queries are not parsed")
		return
	}
	var b strings.Builder
	b.WriteString("groups:\n  - name: dashboard\n    rules:\n")
	for i, expr := range exprs {
		expr = strings.NewReplacer("$__rate_interval", "5m", "$component", ".*").Replace(expr)
		quoted, err := json.Marshal(expr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "      - {record: 'dashboard:%d', expr: %s}\n", i, quoted)
	}
	file := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), promtool, "check", "rules", "--lint=none", file).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// simulateAll starts a wxtoken --sim in which everything runs that has metrics, and returns where its ops door, its
// gateway and the platform's control door listen.
func simulateAll(t *testing.T) (ops, gateway, control string) {
	t.Helper()
	dir := t.TempDir()
	secret := "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 32))
	taker := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(taker.Close)
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	served := write("services.json", fmt.Sprintf(`{"services":[{"name":"demo","keys":[%q],"accounts":["%[2]s/*"],"may":["relay"],"webhooks":[
		{"url":%[3]q,"messages":["%[2]s/*/*"],"secret":%[4]q}]}]}`, services.Digest(demoKey), wechatsim.DemoAppID, taker.URL, secret))
	told := write("notify.json", fmt.Sprintf(`{"receivers":[{"name":"ops","kind":"webhook","url":%q,"secret":%q}]}`, taker.URL, secret))
	cmd := exec.Command(filepath.Join(bin, "wxtoken"), "--sim", "--data-dir="+filepath.Join(dir, "data"), "--nats-url=nats://127.0.0.1:0", "--http-addr=127.0.0.1:0",
		"--ops-addr=127.0.0.1:0", "--sim-addr=127.0.0.1:0", "--sim-control-addr=127.0.0.1:0", "--gateway-addr=127.0.0.1:0", "--services-file="+served, "--notify-file="+told)
	cmd.Env = []string{}
	var log, said logtest.Buffer
	cmd.Stdout, cmd.Stderr = &log, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("wxtoken --sim said\n%s\n%s", said.String(), log.String())
		}
	})
	at := func(pattern string) (found string) {
		within(t, 3*time.Minute, pattern, func() error {
			m := regexp.MustCompile(pattern).FindStringSubmatch(said.String())
			if m == nil {
				return errors.New("not said")
			}
			found = m[1]
			return nil
		})
		return found
	}
	ops, gateway = at(`all keys +curl (http://\S+?)/`), at(`API host (http://[^,]+),`)
	return ops, gateway, at(`the platform +curl (http://\S+?)/ `)
}

func fetchBody(from string) (string, error) {
	res, err := http.Get(from)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(res.Body)
	return string(body), errors.Join(err, res.Body.Close())
}

var scrapedSample = regexp.MustCompile(`(?m)^(\w+)(?:\{(.*)\})? `)

// labelsOf returns the labels of each metric that was scraped.
func labelsOf(text string) map[string]map[string]bool {
	all := map[string]map[string]bool{}
	for _, m := range scrapedSample.FindAllStringSubmatch(text, -1) {
		if all[m[1]] == nil {
			all[m[1]] = map[string]bool{}
		}
		for _, label := range labelName.FindAllStringSubmatch(m[2], -1) {
			all[m[1]][label[1]] = true
		}
	}
	return all
}
