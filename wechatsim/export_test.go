package wechatsim

import "strings"

// Parts of the package that its tests look at from outside.
var (
	Encrypt = encrypt
	Decrypt = decrypt
	Sign    = sign
	AESKey  = aesKey
)

// CurlLines returns the verbs of the control door as curl lines.
func CurlLines(host string) []string {
	var lines []string
	for _, v := range verbs {
		lines = append(lines, v.curl(host))
	}
	return lines
}

// SealNext seals the push that waits longest, as Run would have sent it, and returns its query and
// body.
func (p *Platform) SealNext() (query string, body []byte, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	job := p.queue[0]
	p.queue = p.queue[1:]
	target, text, err := p.seal(job)
	_, query, _ = strings.Cut(target, "?")
	return query, []byte(text), err
}

// AuthorizeDirectly lets an account authorize and returns a component token and the account's refresh
// token, without pushes and calls.
func (p *Platform) AuthorizeDirectly(appid string) (token, refresh string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.component("")
	if err != nil {
		return "", "", err
	}
	return p.issueToken(c, nil).value, p.grant(c, appid).refresh, nil
}

// MaxKept is how many uploaded files are kept.
const MaxKept = maxKept
