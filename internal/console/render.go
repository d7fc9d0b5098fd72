package console

import (
	"embed"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"wxtoken/client"
	"wxtoken/internal/lang"
)

//go:embed pages/*.html
var pageFiles embed.FS

// templateSet holds the templates of all pages in one language, by the page's name.
type templateSet map[string]*template.Template

// frame is the data of a template.
type frame struct {
	Language lang.Language
	Title    string
	Nav      []navLink
	Switch   []navLink // the languages
	Now      time.Time
	Loading  *loading // nil once everything has been read
	Away     bool     // NATS does not answer
	Events   string   // path of the stream that says that something changed; "": the page stays as it is
	Mark     string   // of the index when the data was read
	Text     string   // address of the same data as JSON
	Request  *Request
	Data     any
}

// navLink is a link of the navigation.
type navLink struct {
	Href, Text, Lang string
	Current          bool
}

// loading says how much of the buckets has been read.
type loading struct {
	Read    int `json:"read"`
	Pending int `json:"pending"`
}

// All returns how much there is.
func (l loading) All() int { return l.Read + l.Pending }

// Percent returns how much has been read.
func (l loading) Percent() int { return 100 * l.Read / max(l.All(), 1) }

// parseTemplates reads the templates of each page: its own, the layout, and what the pages share. In
// a template both languages stand side by side: {{t "all accounts" "全部账号"}}.
func parseTemplates(pages []Page) (map[lang.Language]templateSet, error) {
	templates := map[lang.Language]templateSet{}
	names := []string{"fault", "revealed"}
	for _, p := range pages {
		names = append(names, p.Name)
	}
	for _, l := range []lang.Language{lang.English, lang.Chinese} {
		templates[l] = templateSet{}
		for _, name := range names {
			t, err := template.New("layout.html").Funcs(words(l)).ParseFS(pageFiles,
				"pages/layout.html", "pages/parts.html", "pages/actions.html", "pages/"+name+".html")
			if err != nil {
				return nil, fmt.Errorf("read the template of page %s: %w", name, err)
			}
			templates[l][name] = t
		}
	}
	return templates, nil
}

// words returns the functions of templates in one language.
func words(l lang.Language) template.FuncMap {
	return template.FuncMap{
		"t":     func(en, zh string, args ...any) string { return translate(l, en, zh, args) },
		"say":   func(text lang.Text) string { return text.In(l) },
		"n":     grouped[int],
		"when":  when,
		"ago":   func(at any, now time.Time) template.HTML { return distance(at, now, l) },
		"due":   func(at time.Time, now time.Time) template.HTML { return dueAt(at, now, l) },
		"span":  func(d time.Duration) string { return span(d, l) },
		"state": func(s string) string { return stateWord(s).In(l) },
		"class": stateClass,
		"asset": func(path string) string { return path + "?v=" + versions[path] },
		"num":   grouped[int64],
		"n64":   grouped[uint64],
		"ms":    duration,
		"plain": printable,
		"todo":  withRunbookLinks,
		"tone":  tone[int], "toned": tone[int64], "toned64": tone[uint64],
		"timesLeft": timesLeft, "sorts": sorts,
		"renewalReason": func(reason string) string { return renewalReason(reason).In(l) },
		"condition":     func(c wxtoken.ConditionType) string { return conditionWord(c).In(l) },
		"reason":        func(r wxtoken.Reason) string { return reasonWord(r).In(l) },
		"list":          func(values ...any) []any { return values },
	}
}

// translate chooses a text of a template and fills in its figures. TestTemplates reads them all.
func translate(l lang.Language, en, zh string, args []any) string {
	text := en
	if l == lang.Chinese {
		text = zh
	}
	if len(args) == 0 {
		return text
	}
	return fmt.Sprintf(text, args...)
}

// render writes a page as HTML. The mark was taken before the data was read, so that the browser
// hears of everything that changed since.
func (c *Console) render(out io.Writer, p Page, q *Request, mark string, data any) error {
	f := frame{
		Language: q.Language, Title: q.Say(p.Title), Now: q.Now, Loading: c.index.loading(), Away: !c.cfg.NATS.IsConnected(),
		Events: eventsFor(q), Mark: mark, Text: q.With("format", "json"), Request: q, Data: data,
	}
	if named, ok := data.(titled); ok {
		f.Title = named.Title()
	}
	for _, page := range c.pages {
		if !page.Nav.IsZero() {
			f.Nav = append(f.Nav, navLink{Href: page.nav(), Text: q.Say(page.Nav), Current: page.nav() == p.nav()})
		}
	}
	for _, one := range []navLink{{Text: "English", Lang: string(lang.English)}, {Text: "中文", Lang: string(lang.Chinese)}} {
		one.Href, one.Current = q.With("lang", one.Lang), one.Lang == string(q.Language)
		f.Switch = append(f.Switch, one)
	}
	return c.templates[q.Language][p.Name].ExecuteTemplate(out, "layout.html", f)
}

// eventsFor returns the path of the stream of events for a page; "" for the answer to a form, which can't be
// had again with GET: console.js would put "there is no such page" in the place of a token.
func eventsFor(q *Request) string {
	if q.Method == http.MethodPost {
		return ""
	}
	return "/events"
}

// grouped writes a number as people read it: 5,012.
func grouped[N int | int64 | uint64](n N) string {
	text := strconv.FormatInt(int64(n), 10)
	sign := ""
	if strings.HasPrefix(text, "-") {
		sign, text = "-", text[1:]
	}
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return sign + text
}

// instant returns a time of a template, which may be a pointer.
func instant(at any) (t time.Time, ok bool) {
	switch at := at.(type) {
	case time.Time:
		t = at
	case *time.Time:
		if at != nil {
			t = *at
		}
	}
	return t.UTC(), !t.IsZero()
}

// when writes a time in UTC, as an element that console.js turns into local time.
func when(at any) template.HTML {
	t, ok := instant(at)
	if !ok {
		return "–"
	}
	text := t.Format(time.DateTime) + " UTC"
	return element(t, "when", text, text)
}

// distance writes how far a time lies from now, with the date on hover.
func distance(at any, now time.Time, l lang.Language) template.HTML {
	t, ok := instant(at)
	if !ok {
		return "–"
	}
	return element(t, "ago", t.Format(time.DateTime)+" UTC", apart(t, now).In(l))
}

// dueAt writes when something is due: a time in the past says that it is overdue.
func dueAt(at, now time.Time, l lang.Language) template.HTML {
	if at.IsZero() || at.After(now) {
		return distance(at, now, l)
	}
	text := lang.T("was due %s", "应在 %s", apart(at, now)).In(l)
	return element(at.UTC(), "ago", at.UTC().Format(time.DateTime)+" UTC", text)
}

// element writes a time element. None of its texts is foreign.
func element(t time.Time, class, title, text string) template.HTML {
	return template.HTML(fmt.Sprintf(`<time class=%q datetime=%q title=%q>%s</time>`, class, t.Format(time.RFC3339), title, template.HTMLEscapeString(text)))
}

// apart says how far at lies from now.
func apart(at, now time.Time) lang.Text {
	d := at.Sub(now)
	text := spanText(d.Abs())
	if d < 0 {
		return lang.T("%s ago", "%s前", text)
	}
	return lang.T("in %s", "%s后", text)
}

// span says how long d is, with two units at most.
func span(d time.Duration, l lang.Language) string { return spanText(d).In(l) }

func spanText(d time.Duration) lang.Text {
	const day = 24 * time.Hour
	d = d.Abs()
	switch {
	case d >= 2*day:
		return lang.T("%d days", "%d 天", int(d/day))
	case d >= time.Hour && d%time.Hour < time.Minute:
		return lang.T("%d h", "%d 小时", int(d/time.Hour))
	case d >= time.Hour:
		return lang.T("%d h %02d min", "%d 小时 %02d 分", int(d/time.Hour), int(d%time.Hour/time.Minute))
	case d >= time.Minute && d%time.Minute < time.Second:
		return lang.T("%d min", "%d 分钟", int(d/time.Minute))
	case d >= time.Minute:
		return lang.T("%d min %02d s", "%d 分 %02d 秒", int(d/time.Minute), int(d%time.Minute/time.Second))
	}
	return lang.T("%d s", "%d 秒", int(d/time.Second))
}

// spanInSentence says how long d is, within a sentence: "the last hour", not "the last 1 h".
func spanInSentence(d time.Duration) lang.Text {
	text := spanText(d)
	switch d {
	case time.Minute:
		text.EN = "minute"
	case time.Hour:
		text.EN = "hour"
	}
	text.ZH = " " + text.ZH // a figure stands apart from what is before it
	return text
}
