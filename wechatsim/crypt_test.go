package wechatsim_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"wxtoken/wechatsim"
)

// TestVectors checks the cipher and the signature against what WeChat's pages and other people's
// programs published.
func TestVectors(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Name           string
		Token          string
		EncodingAESKey string `json:"encoding_aes_key"`
		AppID          string
		Timestamp      string
		Nonce          string
		Random         string
		Plain          string
		Encrypt        string
		MsgSignature   string `json:"msg_signature"`
	}
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			key, err := wechatsim.AESKey(v.EncodingAESKey)
			if err != nil {
				t.Fatal(err)
			}
			plain, appid, err := wechatsim.Decrypt(key, v.Encrypt)
			if err != nil || string(plain) != v.Plain || appid != v.AppID {
				t.Errorf("decrypt: %q for %q, %v", plain, appid, err)
			}
			encrypted, err := wechatsim.Encrypt(key, [16]byte([]byte(v.Random)), []byte(v.Plain), v.AppID)
			if err != nil || encrypted != v.Encrypt {
				t.Errorf("encrypt: %q, %v; want %q", encrypted, err, v.Encrypt)
			}
			if got := wechatsim.Sign(v.Token, v.Timestamp, v.Nonce, v.Encrypt); got != v.MsgSignature {
				t.Errorf("signature %s, want %s", got, v.MsgSignature)
			}
		})
	}
}

func TestDecryptRefuses(t *testing.T) {
	t.Parallel()
	key, err := wechatsim.AESKey(compKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, encrypted := range map[string]string{
		"empty":      "",
		"not base64": "!!!!",
		"half block": "AAAA",
		"noise":      strings.Repeat("A", 43) + "=",
	} {
		if _, _, err := wechatsim.Decrypt(key, encrypted); err == nil {
			t.Errorf("%s was decrypted", name)
		}
	}
}
