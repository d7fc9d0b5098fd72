package console

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/internal/events"
	"wxtoken/internal/lang"
	"wxtoken/internal/login"
)

// Page is one page of the console. To add one: write its function and its template
// pages/<name>.html, and name it in New.
type Page struct {
	Path  string    // a pattern of http.ServeMux, without the method
	Name  string    // of the template
	Nav   lang.Text // its word in the navigation; zero: not in the navigation
	Under string    // path of the page in the navigation that this one belongs to; "": itself
	Title lang.Text
	// Params names the query parameters, beside format and lang. Others are refused.
	Params []string
	// Data returns what the page shows. JSON and HTML are made from it; a value with a method Title
	// gives the page its title. A *Fault is answered with its status, any other error with 503.
	Data func(context.Context, *Request) (any, error)
	// Text writes the page for a terminal; nil: a terminal gets JSON.
	Text func(*bytes.Buffer, any, *Request)
	// CSV writes the page for a spreadsheet; nil: there is no CSV.
	CSV func(io.Writer, any, *Request) error
}

// titled is a value with a title for its page.
type titled interface{ Title() string }

// Fault says why a page can't be shown, to the person who asked for it.
type Fault struct {
	Status int
	Text   lang.Text
}

func (f *Fault) Error() string { return f.Text.EN }

// badRequest returns a Fault with status 400.
func badRequest(text lang.Text) error { return &Fault{http.StatusBadRequest, text} }

// Request is a request for a page, parsed.
type Request struct {
	*http.Request
	Language lang.Language
	Query    url.Values // each name once
	Now      time.Time  // UTC, the same for all of the page
	format   string     // html, json, text or csv
}

// Say returns a text in the language of the request.
func (r *Request) Say(text lang.Text) string { return text.In(r.Language) }

// With returns the address of this page with some parameters changed; "" removes one. The others
// stay.
func (r *Request) With(pairs ...string) string {
	values := url.Values{}
	for name, all := range r.Query {
		if name != "lang" && name != "format" {
			values[name] = all
		}
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		values.Del(pairs[i])
		if pairs[i+1] != "" {
			values.Set(pairs[i], pairs[i+1])
		}
	}
	if len(values) == 0 {
		return r.URL.Path
	}
	return r.URL.Path + "?" + values.Encode()
}

// formats are the formats of pages, with their Content-Types.
var formats = map[string]string{
	"html": "text/html; charset=utf-8",
	"json": "application/json",
	"text": "text/plain; charset=utf-8",
	"csv":  "text/csv; charset=utf-8",
}

// parse reads a request for a page.
func (c *Console) parse(p Page, r *http.Request) (*Request, error) {
	q := &Request{Request: r, Now: c.now().UTC(), Language: login.Preferred(r), format: formatOf(p, r.Header.Get("Accept"))}
	var err error
	if q.Query, err = url.ParseQuery(r.URL.RawQuery); err != nil {
		return q, badRequest(lang.T("the query can't be read", "无法解析查询参数"))
	}
	for name, all := range q.Query {
		switch {
		case len(all) > 1:
			return q, badRequest(lang.T("a parameter is given twice", "有参数重复"))
		case name == "lang" || name == "format" || slices.Contains(p.Params, name):
		default:
			names := strings.Join(append(slices.Clone(p.Params), "format", "lang"), ", ")
			return q, badRequest(lang.T("unknown parameter: want one of %s", "未知的参数：可用的有 %s", names))
		}
	}
	if l := q.Query.Get("lang"); l == string(lang.English) || l == string(lang.Chinese) {
		q.Language = lang.Language(l)
	} else if q.Query.Has("lang") {
		return q, badRequest(lang.T("lang: want en or zh", "lang：只能是 en 或 zh"))
	}
	if f := q.Query.Get("format"); p.has(f) {
		q.format = f
	} else if q.Query.Has("format") {
		return q, badRequest(lang.T("format: want %s", "format：可以是 %s", strings.Join(p.formats(), ", ")))
	}
	return q, nil
}

// has reports whether the page has a format.
func (p Page) has(format string) bool { return slices.Contains(p.formats(), format) }

// formats returns the formats of the page.
func (p Page) formats() []string {
	names := []string{"html", "json"}
	if p.Text != nil {
		names = append(names, "text")
	}
	if p.CSV != nil {
		names = append(names, "csv")
	}
	return names
}

// formatOf returns the format that an Accept header asks for. A terminal asks for anything.
func formatOf(p Page, accept string) string {
	switch {
	case strings.Contains(accept, "text/html"):
		return "html"
	case strings.Contains(accept, "application/json"), p.Text == nil:
		return "json"
	}
	return "text"
}

// serve answers requests for a page.
func (c *Console) serve(p Page) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q, err := c.parse(p, r)
		if err != nil {
			c.refuse(w, p, q, err)
			return
		}
		if q.Query.Has("lang") {
			http.SetCookie(w, &http.Cookie{
				Name: login.LanguageCookie, Value: string(q.Language), Path: "/", MaxAge: int((365 * 24 * time.Hour).Seconds()),
				HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: r.TLS != nil,
			})
		}
		within := pageTimeout
		if q.format == "csv" { // thousands of rows, each read from NATS
			within = csvTimeout
			// The error says that the server has no deadlines.
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(csvTimeout + writeTimeout))
		}
		ctx, cancel := context.WithTimeout(r.Context(), within)
		defer cancel()
		mark := c.index.currentMark()
		data, err := p.Data(ctx, q)
		if err != nil {
			c.refuse(w, p, q, err)
			return
		}
		c.answer(w, p, q, mark, data)
	})
}

// answer writes a page.
func (c *Console) answer(w http.ResponseWriter, p Page, q *Request, mark string, data any) {
	var out bytes.Buffer
	var err error
	status := http.StatusOK
	if !c.index.alive() && !c.cfg.NATS.IsConnected() {
		status = http.StatusServiceUnavailable // the page shows what was known before
	}
	switch q.format {
	case "json":
		err = json.NewEncoder(&out).Encode(data)
	case "csv":
		w.Header().Set("Content-Disposition", `attachment; filename="wxtoken-`+p.Name+`.csv"`)
		err = p.CSV(&out, data, q)
	case "text":
		p.Text(&out, data, q)
	default:
		err = c.render(&out, p, q, mark, data)
	}
	if err != nil {
		c.cfg.Log.Error().Err(err).Str("page", p.Name).Msg("failed to render page")
		http.Error(w, q.Say(lang.T("the page could not be rendered: see the log", "无法生成页面，见日志")), http.StatusInternalServerError)
		return
	}
	c.write(w, q, status, out.Bytes())
}

// refuse says why a page can't be shown.
func (c *Console) refuse(w http.ResponseWriter, p Page, q *Request, err error) {
	fault := faultOf(err)
	if fault.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "2") // seconds
	}
	text := q.Say(fault.Text)
	var out bytes.Buffer
	switch q.format {
	case "json":
		_ = json.NewEncoder(&out).Encode(map[string]string{"error": text}) // a map of strings can't fail
	case "html":
		if err := c.render(&out, Page{Name: "fault", Title: lang.T("Not shown", "无法显示"), Under: p.nav()}, q, c.index.currentMark(), faultView{fault.Status, text}); err == nil {
			break
		}
		fallthrough
	default:
		q.format = "text"
		out.Reset()
		fmt.Fprintln(&out, text)
	}
	c.write(w, q, fault.Status, out.Bytes())
}

// nowhere answers requests for a page that there is not.
func (c *Console) nowhere(w http.ResponseWriter, r *http.Request) {
	q := c.formRequest(r)
	q.format = formatOf(Page{}, r.Header.Get("Accept"))
	c.refuse(w, Page{}, q, &Fault{http.StatusNotFound, lang.T("there is no such page", "没有这个页面")})
}

// faultOf says why there is no page.
func faultOf(err error) *Fault {
	if fault, ok := errors.AsType[*Fault](err); ok {
		return fault
	}
	if refused, ok := errors.AsType[*events.RequestError](err); ok {
		return &Fault{refused.Code, printableText(refused.Text())}
	}
	if _, ok := errors.AsType[*jetstream.APIError](err); ok {
		return &Fault{http.StatusServiceUnavailable, lang.T("NATS refuses: %v", "NATS 拒绝：%v", err)}
	}
	return &Fault{http.StatusServiceUnavailable, lang.T("NATS does not answer: %v", "NATS 没有应答：%v", err)}
}

// faultView is what the page of a fault shows.
type faultView struct {
	Status int
	Text   string
}

// write sends an answer.
func (c *Console) write(w http.ResponseWriter, q *Request, status int, body []byte) {
	w.Header().Set("Content-Type", formats[q.format])
	w.Header().Set("Content-Language", string(q.Language))
	w.Header().Set("Vary", "Accept, Accept-Language, Cookie")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may have gone
}

// nav returns the path in the navigation that a page belongs to.
func (p Page) nav() string {
	if p.Under != "" {
		return p.Under
	}
	return strings.TrimSuffix(p.Path, "{$}")
}
