package preflight

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/lang"
	"wxtoken/internal/natsd"
	"wxtoken/internal/natsd/natsdtest"
)

// TestCipher looks at stores as nats-server makes them, with a key and with an empty one, which it
// takes for none.
func TestCipher(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]Mark{"secret-of-the-disk": OK, "": Warn} {
		srv := natsdtest.Start(t, func(c *natsd.Config) { c.Key = wxtoken.NewSecret(key) })
		seen := &Server{StoreDir: srv.StoreDir()}
		if line := cipherLine(seen, skip(nameCipher, lang.Same("unseen"))); line.Mark != Skip {
			t.Errorf("without a stream: %+v", line)
		}
		js := natsdtest.JetStream(t, srv.Connect())
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "KV_tokens"}); err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{srv.StoreDir(), srv.StoreDir() + "/jetstream"} { // as we say it, as /jsz does
			line := cipherLine(&Server{StoreDir: dir}, skip(nameCipher, lang.Same("unseen")))
			if line.Mark != want || want == Warn && (!strings.Contains(line.Saw.EN, "KV_tokens") || !strings.Contains(line.Remedy.EN, "JETSTREAM_KEY is not empty")) {
				t.Errorf("key %q: %+v, want %s", key, line, want)
			}
		}
	}
}
