package wxtoken

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"wxtoken/client/document"
)

const (
	// defaultRetryBody is the largest request body that is kept in memory for a second try, in
	// bytes.
	defaultRetryBody = 1 << 20
	// maxRefusal is the longest answer that is searched for an errcode, in bytes: WeChat's refusals
	// are far shorter.
	maxRefusal = 2 << 10
)

// TokenParameters are the query parameters in which WeChat takes a token.
var TokenParameters = []string{"access_token", "component_access_token"}

// refusedCodes are the errcodes with which WeChat refuses a token ("Global return codes").
var refusedCodes = []int{40001, 40014, 42001}

// Transport is an http.RoundTripper for calls to WeChat's API: it puts the current token of a key
// into the query. When WeChat refuses the token it has it replaced ([Client.Replace]) and repeats
// the call once, if the request's body can be sent again. A body is always sent with a length; one
// whose length is not known is first read to its end. Nothing else is repeated: a call may have
// worked although its answer was lost. (net/http itself may repeat a GET when an idle connection
// breaks.) Where the call can't be repeated, the refusal is returned as it came, once the next
// token is there.
//
// The token takes the place of access_token or component_access_token, whichever the query has; if
// it has neither, the token is added under the name for the kind of the key. Neither RoundTrip's
// errors nor the Request of an answer contain the token. When WeChat redirects, an http.Client
// follows without the token: it is only for the address that was called.
type Transport struct {
	Client *Client
	Key    Key

	// Base makes the calls. Default: http.DefaultTransport. Its answers must not be compressed;
	// they aren't unless the request has a header Accept-Encoding.
	Base http.RoundTripper

	// RetryBody is the largest body of a request without GetBody that is kept in memory for a
	// second try, in bytes. Default: 1 MiB. Negative: none is kept.
	RetryBody int64

	// SpoolDir is the folder for a body that is longer than RetryBody and whose length the request
	// does not say (ContentLength 0 or -1): WeChat refuses a chunked body, so its length must be
	// found first. The file is deleted while it is still open, except on Windows. Such a body can
	// be sent twice. Default: os.TempDir.
	SpoolDir string

	// MaxSpool is the longest such body, in bytes; a longer one is refused with ErrBodyTooLong.
	// Default: 1 GiB.
	MaxSpool int64

	// Answered, if not nil, is called with each answer before RoundTrip returns it.
	Answered func(Answer)
}

// Answer is what Transport read from an answer of WeChat's.
type Answer struct {
	Errcode int    // WeChat's errcode; 0 if there is none
	RID     string // WeChat's request id, of an answer with an errcode
	Refused bool   // WeChat refused the first token
	Again   bool   // the call was repeated, and this is the second answer
	// Why the call was not repeated, if Refused and not Again; nil if its body can't be sent twice.
	Err error
}

// RoundTrip makes the call. It returns the errors of [Client.Token], those of Base without URLs,
// and the request body's own.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Response != nil {
		return t.redirected(req)
	}
	token, err := t.Client.Token(t.Key)
	if err != nil {
		closeBody(req)
		return nil, err
	}
	body, err := t.body(req)
	if err != nil {
		closeBody(req)
		return nil, err
	}
	defer body.release()
	res, answer, err := t.send(req, token, body.first, body.length)
	if err != nil || !slices.Contains(refusedCodes, answer.Errcode) {
		return t.finish(res, answer, err)
	}
	answer.Refused = true
	// Replaced even where the body can't be sent again: many SDKs repeat the call themselves, at
	// once, and need the new token.
	next, err := t.Client.Replace(req.Context(), token)
	if err == nil && body.again != nil {
		var again io.ReadCloser
		if again, err = body.again(); err == nil {
			closeResponse(res)
			res, answer, err = t.send(req, next, again, body.length)
			answer.Refused, answer.Again = true, true
			return t.finish(res, answer, err)
		}
	}
	answer.Err = err
	return t.finish(res, answer, nil)
}

func (t *Transport) finish(res *http.Response, answer Answer, err error) (*http.Response, error) {
	if err != nil {
		return nil, err
	}
	if t.Answered != nil {
		t.Answered(answer)
	}
	return res, nil
}

// redirected sends a redirected request unchanged: its host may be one that must not get the token.
func (t *Transport) redirected(req *http.Request) (*http.Response, error) {
	res, err := t.base().RoundTrip(req)
	return res, withoutURL(err)
}

// outgoing is a request's body, ready to be sent.
type outgoing struct {
	first   io.ReadCloser
	length  int64
	again   func() (io.ReadCloser, error) // nil if it can't be sent twice
	release func()
}

// body prepares a request's body to be sent with its length, and twice where possible. An unknown
// length is 0 or -1.
func (t *Transport) body(req *http.Request) (outgoing, error) {
	limit := t.RetryBody
	if limit == 0 {
		limit = defaultRetryBody
	}
	ready := outgoing{first: req.Body, length: req.ContentLength, again: req.GetBody, release: func() {}}
	switch {
	case req.Body == nil || req.Body == http.NoBody:
		ready.first, ready.length, ready.again = http.NoBody, 0, func() (io.ReadCloser, error) { return http.NoBody, nil }
		return ready, nil
	case req.ContentLength > 0 && (req.GetBody != nil || req.ContentLength > limit):
		return ready, nil
	}
	inMemory := limit
	if limit < 0 {
		inMemory = defaultRetryBody // not to repeat the call, but to find the length
	}
	k, err := t.buffer(req.Context(), req.Body, inMemory)
	if err != nil {
		return outgoing{}, err
	}
	if err := req.Body.Close(); err != nil {
		k.release()
		return outgoing{}, err
	}
	ready.first, _ = k.open()
	ready.release = k.release
	if req.ContentLength <= 0 {
		ready.length = k.length
	} // else net/http refuses a body that is shorter than its ContentLength
	if limit > 0 {
		ready.again = k.open
	}
	return ready, nil
}

// body reads from one source and closes another.
type body struct {
	io.Reader
	io.Closer
}

// send makes the call with a token, and reads the errcode of the answer.
func (t *Transport) send(req *http.Request, token Token, payload io.ReadCloser, length int64) (*http.Response, Answer, error) {
	out := *req // a shallow copy: a RoundTripper must not change the request
	address := *req.URL
	address.RawQuery = withToken(address.RawQuery, token)
	out.URL, out.Body, out.ContentLength, out.GetBody = &address, payload, length, nil
	out.TransferEncoding = nil // not chunked: WeChat answers a chunked body with HTTP 412
	res, err := t.base().RoundTrip(&out)
	if err != nil {
		return nil, Answer{}, withoutURL(err)
	}
	answer, err := ReadAnswer(res)
	if err != nil {
		closeResponse(res)
		return nil, Answer{}, withoutURL(err)
	}
	res.Request = req // not out: its URL holds the token, and may end up in logs
	return res, answer, nil
}

func (t *Transport) base() http.RoundTripper {
	if t.Base == nil {
		return http.DefaultTransport
	}
	return t.Base
}

// withoutURL strips an error of its URL, which contains the token.
func withoutURL(err error) error {
	if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// withToken returns a query with a token as the value of its parameter.
func withToken(query string, token Token) string {
	value := url.QueryEscape(token.Value.Reveal())
	parts := strings.Split(query, "&")
	for i, part := range parts {
		name, _, _ := strings.Cut(part, "=")
		if slices.Contains(TokenParameters, name) {
			parts[i] = name + "=" + value
			return strings.Join(parts, "&")
		}
	}
	name := TokenParameters[0]
	if token.Key.Kind == KindComponent {
		name = TokenParameters[1]
	}
	if query != "" {
		query += "&"
	}
	return query + name + "=" + value
}

// ReadAnswer reads errcode and rid from an answer of WeChat's. Afterwards res.Body can still be
// read from its beginning. A long answer, or one of an image, video or audio type, is not read.
func ReadAnswer(res *http.Response) (Answer, error) {
	if res.ContentLength > maxRefusal || res.ContentLength == 0 || res.Body == nil ||
		isMedia(res.Header.Get("Content-Type")) {
		return Answer{}, nil
	}
	head, err := io.ReadAll(io.LimitReader(res.Body, maxRefusal+1))
	if err != nil {
		return Answer{}, err
	}
	res.Body = body{io.MultiReader(bytes.NewReader(head), res.Body), res.Body}
	if len(head) > maxRefusal {
		return Answer{}, nil
	}
	return parseAnswer(head), nil
}

// isMedia reports whether kind is a content type that a refusal never has.
func isMedia(kind string) bool {
	return strings.HasPrefix(kind, "image/") || strings.HasPrefix(kind, "video/") || strings.HasPrefix(kind, "audio/")
}

// ridPattern is WeChat's request id at the end of an errmsg ("rid").
var ridPattern = regexp.MustCompile(`rid: ?([0-9A-Za-z-]{8,64})`)

// parseAnswer reads errcode and rid. The errcode may be a number or a text.
func parseAnswer(text []byte) Answer {
	if !bytes.Contains(text, []byte(`"errcode"`)) {
		return Answer{}
	}
	var read struct {
		Errcode json.RawMessage `json:"errcode"`
		Errmsg  json.RawMessage `json:"errmsg"`
	}
	if json.Unmarshal(text, &read) != nil && json.Unmarshal(document.Plain(text), &read) != nil {
		return Answer{}
	}
	code, err := strconv.Atoi(strings.Trim(string(read.Errcode), `"`))
	if err != nil || code == 0 {
		return Answer{}
	}
	answer := Answer{Errcode: code}
	if found := ridPattern.FindSubmatch(read.Errmsg); found != nil {
		answer.RID = string(found[1])
	}
	return answer
}

// closeResponse drains and closes an answer that is not needed, so that its connection can be
// reused.
func closeResponse(res *http.Response) {
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxRefusal))
	_ = res.Body.Close()
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}
