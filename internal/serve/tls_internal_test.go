package serve

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// pair makes a certificate and its key.
func pair(t *testing.T) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	like := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	signed, err := x509.CreateCertificate(rand.Reader, like, like, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// TestCertificate: files that are replaced are read again; those that don't fit together are told once, and the last
// certificate stays.
func TestCertificate(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	dir := t.TempDir()
	c := &certificate{cert: filepath.Join(dir, "cert"), key: filepath.Join(dir, "key"), log: zerolog.New(&log)}
	at := time.Now().Add(-time.Hour)
	write := func(file string, text []byte) {
		t.Helper()
		at = at.Add(time.Minute)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.get(nil); err == nil {
		t.Error("a certificate without files")
	}
	cert, key := pair(t)
	write(c.cert, cert)
	write(c.key, key)
	first, err := c.get(nil)
	if err != nil || log.Len() > 0 {
		t.Fatalf("%v, log %s", err, &log)
	}
	cert, key = pair(t)
	write(c.cert, cert) // the key follows later, or never
	for range 2 {
		if kept, err := c.get(nil); err != nil || kept != first {
			t.Errorf("of files that don't fit: %v, %v", kept, err)
		}
	}
	if text := log.String(); strings.Count(text, "failed to read the certificate again") != 1 || !strings.Contains(text, c.cert) {
		t.Errorf("log: %s", text)
	}
	write(c.key, key)
	if second, err := c.get(nil); err != nil || second == first {
		t.Errorf("the new pair: %v", err)
	}
}
