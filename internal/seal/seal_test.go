package seal_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"pgregory.net/rapid"

	"wxtoken/internal/seal"
)

// newKeys returns a new seed and the Keys of its two sides: what ingest has, and what a refresher has.
func newKeys(t rapid.TB) (seed string, ingest, refresher *seal.Keys) {
	t.Helper()
	seed, public, err := seal.Make()
	if err != nil {
		t.Fatal(err)
	}
	if ingest, err = seal.FromPublic(public + "\n"); err != nil {
		t.Fatal(err)
	}
	return seed, ingest, keysOf(t, seed)
}

func keysOf(t rapid.TB, seeds ...string) *seal.Keys {
	t.Helper()
	keys, err := seal.FromSeeds("# comment\n\n" + strings.Join(seeds, "\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func sealed(keys *seal.Keys, subject, data string) *nats.Msg {
	m := nats.NewMsg(subject)
	m.Data = []byte(data)
	keys.Seal(m)
	return m
}

func TestSealAndOpen(t *testing.T) {
	t.Parallel()
	_, ingest, refresher := newKeys(t)
	_, _, stranger := newKeys(t)
	rapid.Check(t, func(t *rapid.T) {
		data := string(rapid.SliceOf(rapid.Byte()).Draw(t, "data"))
		subject := rapid.StringMatching(`[a-z]{1,9}(\.[A-Za-z0-9_-]{1,9}){0,3}`).Draw(t, "subject")
		if strings.HasPrefix(data, seal.Prefix) {
			t.Skip("it looks sealed")
		}
		by := rapid.SampledFrom([]*seal.Keys{ingest, refresher}).Draw(t, "by")
		m := sealed(by, subject, data)
		if !seal.Sealed(m.Data) || len(data) > 8 && bytes.Contains(m.Data, []byte(data)) {
			t.Fatal("not sealed")
		}
		if again := sealed(by, subject, data); bytes.Equal(again.Data, m.Data) {
			t.Fatal("the same text looks the same")
		}
		got, err := refresher.Open(subject, m.Header, m.Data)
		if err != nil || string(got) != data {
			t.Fatalf("%q, %v", got, err)
		}
		// Only what a refresher sealed counts as its own.
		if _, err := refresher.OpenOwn(subject, m.Header, m.Data); (err == nil) != (by == refresher) {
			t.Fatalf("sealed by ingest %t: %v", by == ingest, err)
		}
		for name, keys := range map[string]*seal.Keys{"another seed": stranger, "no seed": nil, "ingest": ingest} {
			if _, err := keys.Open(subject, m.Header, m.Data); !errors.Is(err, seal.ErrNoKey) {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if _, err := refresher.Open(subject+"x", m.Header, m.Data); !errors.Is(err, seal.ErrBroken) {
			t.Fatalf("moved: %v", err)
		}
		bit := rapid.IntRange(len(seal.Prefix)*8, len(m.Data)*8-1).Draw(t, "bit")
		bad := slices.Clone(m.Data)
		bad[bit/8] ^= 1 << (bit % 8)
		if _, err := refresher.Open(subject, m.Header, bad); !errors.Is(err, seal.ErrBroken) {
			t.Fatalf("bit %d: %v", bit, err)
		}
		cut := m.Data[:rapid.IntRange(len(seal.Prefix), len(m.Data)-1).Draw(t, "cut")]
		if _, err := refresher.Open(subject, m.Header, cut); !errors.Is(err, seal.ErrBroken) {
			t.Fatalf("cut: %v", err)
		}
		for _, header := range []nats.Header{nil, {}, {seal.HeaderFor: {"X"}}} {
			if _, err := refresher.Open(subject, header, m.Data); !errors.Is(err, seal.ErrNoKey) {
				t.Fatalf("header %v: %v", header, err)
			}
		}
		m.Header.Set(seal.HeaderBy, stranger.Public())
		if _, err := refresher.Open(subject, m.Header, m.Data); !errors.Is(err, seal.ErrBroken) {
			t.Fatalf("of another sender: %v", err)
		}
		m.Header.Set(seal.HeaderBy, "Xnonsense")
		if _, err := refresher.Open(subject, m.Header, m.Data); !errors.Is(err, seal.ErrBroken) {
			t.Fatalf("of no sender: %v", err)
		}
		if got, err := refresher.Open(subject, nil, []byte(data)); err != nil || string(got) != data {
			t.Fatalf("in the clear: %q, %v", got, err)
		}
	})
	// Nothing is sealed without keys, and nothing twice.
	if m := sealed(nil, "a", "text"); string(m.Data) != "text" || len(m.Header) > 0 {
		t.Errorf("without keys: %q %v", m.Data, m.Header)
	}
	m := sealed(ingest, "a", "text")
	before := slices.Clone(m.Data)
	refresher.Seal(m)
	if !bytes.Equal(m.Data, before) {
		t.Error("sealed twice")
	}
}

// TestNkeys: what is sealed is what nkeys itself seals and opens.
func TestNkeys(t *testing.T) {
	t.Parallel()
	seed, ingest, refresher := newKeys(t)
	pair, err := nkeys.FromCurveSeed([]byte(seed))
	if err != nil {
		t.Fatal(err)
	}
	for name, keys := range map[string]*seal.Keys{"ingest": ingest, "refresher": refresher} {
		m := sealed(keys, "a.b", "text")
		by := m.Header.Get(seal.HeaderBy)
		if by == "" {
			by = m.Header.Get(seal.HeaderFor)
		}
		if text, err := pair.Open(m.Data, by); err != nil || string(text) != "a.b\ntext" {
			t.Errorf("%s: nkeys opens %q, %v", name, text, err)
		}
	}
	other, err := nkeys.CreateCurveKeys()
	if err != nil {
		t.Fatal(err)
	}
	public, err := other.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	data, err := other.Seal([]byte("a.b\ntext"), refresher.Public())
	if err != nil {
		t.Fatal(err)
	}
	header := nats.Header{seal.HeaderFor: {refresher.Public()}, seal.HeaderBy: {public}}
	if text, err := refresher.Open("a.b", header, data); err != nil || string(text) != "text" {
		t.Errorf("sealed by nkeys: %q, %v", text, err)
	}
}

// TestChangeOfKeys goes through a change of the key: at each step everything that lies there can be
// opened.
func TestChangeOfKeys(t *testing.T) {
	t.Parallel()
	oldSeed, oldIngest, first := newKeys(t)
	newSeed, newIngest, last := newKeys(t)
	both, promoted := keysOf(t, oldSeed, newSeed), keysOf(t, newSeed, oldSeed)
	if both.Public() != first.Public() || !slices.Equal(both.Others(), []string{last.Public()}) || promoted.Public() != last.Public() {
		t.Error("the first seed does not seal")
	}
	for _, by := range []*seal.Keys{oldIngest, newIngest, first, both, promoted, last} {
		m := sealed(by, "a", "text")
		for name, keys := range map[string]*seal.Keys{"both": both, "promoted": promoted} {
			if text, err := keys.Open("a", m.Header, m.Data); err != nil || string(text) != "text" {
				t.Errorf("%s: %q, %v", name, text, err)
			}
		}
	}
}

func TestKeysRefused(t *testing.T) {
	t.Parallel()
	seed, public, err := seal.Make()
	if err != nil {
		t.Fatal(err)
	}
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	userSeed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	broken := seed[:20] + "A" + seed[21:]
	if seed[20] == 'A' {
		broken = seed[:20] + "B" + seed[21:]
	}
	for _, row := range []struct {
		name, text, asPublic, asSeeds string // parts of the errors; empty: none
	}{
		{"seed", seed, "is a seed", ""},
		{"public key", public, "", "line 1 is a public key"},
		{"two seeds", seed + "\n" + seed, "is a seed", "line 2 is there twice"},
		{"nothing", " \n# only this", "is not the public key", "holds no seed"},
		{"another kind of seed", string(userSeed), "is not the public key", "line 1 is not the seed"},
		{"a letter is wrong", "#\n" + broken, "is not the public key", "line 2 is not the seed"},
		{"cut", seed[:40], "is a seed", "line 1 is not the seed"},
		{"public key cut", public[:40], "is not the public key", "line 1 is not the seed"},
	} {
		_, publicErr := seal.FromPublic(row.text)
		_, seedsErr := seal.FromSeeds(row.text)
		for want, err := range map[string]error{row.asPublic: publicErr, row.asSeeds: seedsErr} {
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", row.name, err, want)
			}
			if err != nil && (strings.Contains(err.Error(), seed[5:20]) || strings.Contains(err.Error(), string(userSeed[5:20]))) {
				t.Errorf("%s: the error shows a seed: %v", row.name, err)
			}
		}
	}
}

// BenchmarkSeal seals and opens a record of the usual size, as a refresher does it, and as nkeys
// does it by itself.
func BenchmarkSeal(b *testing.B) {
	seed, _, refresher := newKeys(b)
	pair, err := nkeys.FromCurveSeed([]byte(seed))
	if err != nil {
		b.Fatal(err)
	}
	text := strings.Repeat("x", 600)
	b.Run("wxtoken", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m := sealed(refresher, "credential.a", text)
			if _, err := refresher.OpenOwn(m.Subject, m.Header, m.Data); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("nkeys", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			data, err := pair.Seal([]byte(text), refresher.Public())
			if err != nil {
				b.Fatal(err)
			}
			if _, err := pair.Open(data, refresher.Public()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
