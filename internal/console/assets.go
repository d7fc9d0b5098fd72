package console

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"net/http"
)

var (
	//go:embed console.css
	css []byte
	//go:embed console.js
	script []byte
	//go:embed icon.svg
	icon []byte
)

// Public are the paths that need no login: the login page loads them.
var Public = []string{"/console.css", "/icon.svg"}

// asset is a file that pages load.
type asset struct {
	path, media string
	content     []byte
}

var assets = []asset{
	{"/console.css", "text/css; charset=utf-8", css},
	{"/console.js", "text/javascript; charset=utf-8", script},
	{"/icon.svg", "image/svg+xml", icon},
}

// versions are digests of the files, which stand in their addresses: a browser caches a file until it
// changes.
var versions = func() map[string]string {
	all := map[string]string{}
	for _, a := range assets {
		sum := sha256.Sum256(a.content)
		all[a.path] = hex.EncodeToString(sum[:6])
	}
	return all
}()

func (a asset) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", a.media)
	if r.URL.Query().Get("v") == versions[a.path] {
		w.Header().Set("Cache-Control", "private, max-age=31536000, immutable")
	}
	_, _ = w.Write(a.content) // the client may have gone
}
