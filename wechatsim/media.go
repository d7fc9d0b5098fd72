package wechatsim

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"mime/multipart"
	"net/http"
	"path"
	"slices"
	"time"
)

const (
	maxUploadBody   = 64 << 20 // bytes of an upload's body, form and file
	defaultKeep     = 1 << 20  // default of Config.KeepMedia, in bytes
	maxKept         = 100      // how many files are kept at a time
	mediaLife       = 3 * 24 * time.Hour
	mediaGet        = "media/get"
	mediaVideo      = "video"
	mediaField      = "media" // of the form
	mediaIDBytes    = 32
	fingerprintSize = 8 // bytes
)

// mediaLimits are the largest files of media/upload, in bytes, by type.
var mediaLimits = map[string]int64{"image": 10 << 20, "voice": 2 << 20, mediaVideo: 10 << 20, "thumb": 64 << 10}

// media is a file that an account uploaded, or that a call is uploading.
type media struct {
	id      string
	owner   string // appid of the account
	kind    string // a type of media/upload
	name    string // of the file, as it was uploaded
	size    int64  // bytes
	digest  string // Fingerprint of the file
	bytes   []byte // nil if it was too long to be kept, or newer files took its place
	expires time.Time
}

// readUpload reads a whole upload, also if the call will be refused: WeChat's front-end does so
// too. It keeps the file if the body has no more than keep bytes. It returns nil for a body without
// a named file in the field media. The error is a broken connection.
func readUpload(r *http.Request, keep int64) (*media, error) {
	m, formErr := readMedia(r, keep)
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return nil, err
	}
	if formErr != nil {
		return nil, nil
	}
	return m, nil
}

func readMedia(r *http.Request, keep int64) (*media, error) {
	file, err := mediaPart(r)
	if err != nil {
		return nil, err
	}
	m := &media{name: file.FileName()}
	sum := sha256.New()
	var to io.Writer = sum
	var kept *bytes.Buffer
	if r.ContentLength <= keep {
		kept = &bytes.Buffer{}
		to = io.MultiWriter(sum, kept)
	}
	if m.size, err = io.Copy(to, file); err != nil {
		return nil, err
	}
	if kept != nil {
		m.bytes = kept.Bytes()
	}
	m.digest = hex.EncodeToString(sum.Sum(nil)[:fingerprintSize])
	return m, nil
}

// mediaPart returns the part of a form with the file.
func mediaPart(r *http.Request) (*multipart.Part, error) {
	form, err := r.MultipartReader()
	if err != nil {
		return nil, err
	}
	for {
		part, err := form.NextRawPart()
		if err != nil || part.FormName() == mediaField && part.FileName() != "" {
			return part, err
		}
	}
}

func (p *Platform) apiMediaUpload(c *call) (object, int) {
	kind := c.query.Get("type")
	limit, known := mediaLimits[kind]
	switch {
	case !known:
		return nil, codeMediaType
	case c.media == nil:
		return nil, codeMediaMissing
	case c.media.size == 0:
		return nil, codeMediaSize
	case c.media.size > limit:
		return nil, codeMediaTooLarge
	}
	m := c.media
	m.kind, m.owner, m.id = kind, c.token.authorizer, hex.EncodeToString(p.random(mediaIDBytes))
	now := p.now()
	m.expires = now.Add(mediaLife)
	p.media[m.id] = m
	p.keep(m)
	name := "media_id"
	if kind == "thumb" {
		name = "thumb_media_id"
	}
	return object{{"type", kind}, {name, m.id}, {"created_at", now.Unix()}}, codeOK
}

// keep adds a file to those kept, and drops the oldest one if there are too many. The caller holds
// p.mu.
func (p *Platform) keep(m *media) {
	if m.bytes == nil {
		return
	}
	if p.kept = append(p.kept, m); len(p.kept) > maxKept {
		p.kept[0].bytes = nil
		p.kept = slices.Delete(p.kept, 0, 1)
	}
}

// apiMediaGet sets the file for the answer, which serveMedia writes, or returns the URL of a video.
func (p *Platform) apiMediaGet(c *call) (object, int) {
	m := p.media[c.query.Get("media_id")]
	if m == nil || m.owner != c.token.authorizer || m.bytes == nil || !p.now().Before(m.expires) {
		return nil, codeMediaID
	}
	if m.kind == mediaVideo {
		return object{{"video_url", "http://mmbiz.qpic.cn/sim/" + m.id}}, codeOK
	}
	c.media = m
	return nil, codeOK
}

// serveMedia answers with a file.
func serveMedia(w http.ResponseWriter, m *media) {
	w.Header().Set("Content-Type", http.DetectContentType(m.bytes))
	// WeChat does not write this header's name in its canonical form.
	w.Header()["Content-disposition"] = []string{`attachment; filename="` + m.id + cmp.Or(path.Ext(m.name), ".jpg") + `"`}
	w.Header().Set("Cache-Control", "no-cache, must-revalidate")
	_, _ = w.Write(m.bytes)
}
