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
	// defaultRetryBody is how large a request body is kept for a second try, in bytes.
	defaultRetryBody = 1 << 20
	// maxRefusal is how long an answer may be that is looked at: a refusal of WeChat's is far
	// shorter.
	maxRefusal = 2 << 10
)

// TokenParameters are the parameters of a query in which WeChat takes a token.
var TokenParameters = []string{"access_token", "component_access_token"}

// refusedCodes are the errcodes by which WeChat says that it does not take a token ("Global return
// codes").
var refusedCodes = []int{40001, 40014, 42001}

// Transport is an http.RoundTripper for calls to WeChat's API: it puts the current token of a key
// into the query, and when WeChat refuses the token it has that replaced ([Client.Replace]) and
// makes the call once more, if the request's body can be sent again. A body goes out with a length,
// also where the request says none: it is read to its end before. Nothing else is repeated here: a
// call may have worked although its answer was lost. (net/http itself may make a GET once more
// where a connection that it had kept breaks.) A refusal that can't be mended so is handed on as it
// came, when the next token is there.
//
// The token takes the place of access_token or component_access_token, whichever the query has;
// without one it is added under the name that the kind of the key wants. Neither RoundTrip's errors
// nor the Request of an answer hold the token. Where WeChat redirects, an http.Client follows
// without it: the token is for the address that was called.
type Transport struct {
	Client *Client
	Key    Key

	// Base makes the calls. Default: http.DefaultTransport. Its answers must not be compressed,
	// which is so unless the request has a header Accept-Encoding.
	Base http.RoundTripper

	// RetryBody is how large a body of a request without GetBody is kept in memory for a second
	// try, in bytes. Default: 1 MiB; less than 0: none.
	RetryBody int64

	// SpoolDir is where a body goes that is longer than RetryBody and whose length the request does
	// not say (ContentLength 0 or -1): WeChat refuses a body in chunks, so it gets a length. The
	// file has no name any more while it is used, but on Windows. Such a body can be sent twice.
	// Default: os.TempDir.
	SpoolDir string

	// MaxSpool is how long such a body may be, in bytes; what is longer is ErrBodyTooLong. Default:
	// 1 GiB.
	MaxSpool int64

	// Answered, if not nil, is told of each answer before RoundTrip returns it.
	Answered func(Answer)
}

// Answer is what Transport saw of an answer of WeChat's.
type Answer struct {
	Errcode int    // WeChat's; 0 where it gave none
	RID     string // WeChat's request id, of an answer with an errcode
	Refused bool   // WeChat refused the first token
	Again   bool   // the call was made once more, and this is the second answer
	// Why the call was not made once more, where Refused and not Again; nil where its body can't be
	// sent twice.
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
		return t.told(res, answer, err)
	}
	answer.Refused = true
	// Also where the body can't be sent again: a program that repeats the call by itself, as many
	// SDKs do, does so at once.
	next, err := t.Client.Replace(req.Context(), token)
	if err == nil && body.again != nil {
		var again io.ReadCloser
		if again, err = body.again(); err == nil {
			closeResponse(res)
			res, answer, err = t.send(req, next, again, body.length)
			answer.Refused, answer.Again = true, true
			return t.told(res, answer, err)
		}
	}
	answer.Err = err
	return t.told(res, answer, nil)
}

func (t *Transport) told(res *http.Response, answer Answer, err error) (*http.Response, error) {
	if err != nil {
		return nil, err
	}
	if t.Answered != nil {
		t.Answered(answer)
	}
	return res, nil
}

// redirected follows a redirection as it is: it may lead to a host that is not to have the token.
func (t *Transport) redirected(req *http.Request) (*http.Response, error) {
	res, err := t.base().RoundTrip(req)
	return res, withoutURL(err)
}

// outgoing is a request's body.
type outgoing struct {
	first   io.ReadCloser
	length  int64
	again   func() (io.ReadCloser, error) // nil: it can't be sent twice
	release func()
}

// body makes a request's body ready to be sent with its length, and twice where that may be. A
// length that is not said is 0, or -1.
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
	case req.ContentLength > 0 && (req.GetBody != nil || req.ContentLength > limit): // any is longer than a limit below 0
		return ready, nil
	}
	inMemory := limit
	if limit < 0 {
		inMemory = defaultRetryBody // for the length
	}
	k, err := t.keep(req.Context(), req.Body, inMemory)
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
	} // else net/http refuses a body of another length: so much of it is missing
	if limit > 0 {
		ready.again = k.open
	}
	return ready, nil
}

// body reads from one place and closes another.
type body struct {
	io.Reader
	io.Closer
}

// send makes the call with a token, and looks at the answer.
func (t *Transport) send(req *http.Request, token Token, payload io.ReadCloser, length int64) (*http.Response, Answer, error) {
	out := *req // shallow: a RoundTripper changes no request
	address := *req.URL
	address.RawQuery = withToken(address.RawQuery, token)
	out.URL, out.Body, out.ContentLength, out.GetBody = &address, payload, length, nil
	out.TransferEncoding = nil // with its length: WeChat answers HTTP 412 to a body in chunks
	res, err := t.base().RoundTrip(&out)
	if err != nil {
		return nil, Answer{}, withoutURL(err)
	}
	answer, err := ReadAnswer(res)
	if err != nil {
		closeResponse(res)
		return nil, Answer{}, withoutURL(err)
	}
	res.Request = req // the other one has the token in it, and lands in logs
	return res, answer, nil
}

func (t *Transport) base() http.RoundTripper {
	if t.Base == nil {
		return http.DefaultTransport
	}
	return t.Base
}

// withoutURL strips an error of the URL that it may hold, in which the token is.
func withoutURL(err error) error {
	if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// withToken returns a query with the value of a token in its place.
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

// ReadAnswer reads the beginning of an answer of WeChat's, as far as a refusal may be long, and
// puts it back.
func ReadAnswer(res *http.Response) (Answer, error) {
	if res.ContentLength > maxRefusal || res.ContentLength == 0 || res.Body == nil || media(res.Header.Get("Content-Type")) {
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

// media reports whether that is the type of what no refusal is.
func media(kind string) bool {
	return strings.HasPrefix(kind, "image/") || strings.HasPrefix(kind, "video/") || strings.HasPrefix(kind, "audio/")
}

// ridPattern is WeChat's request id at the end of an errmsg ("rid").
var ridPattern = regexp.MustCompile(`rid: ?([0-9A-Za-z-]{8,64})`)

// parseAnswer reads what an answer says of itself. It takes the errcode as a number and as a text.
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

// closeResponse lets go of an answer that is not read, so that its connection is used again.
func closeResponse(res *http.Response) {
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxRefusal))
	_ = res.Body.Close()
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}
