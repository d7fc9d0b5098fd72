package wechatsim

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// padBlock is the block size of the padding, in bytes: twice that of AES (message_push, "加解密").
const padBlock = 32

// Fingerprint returns the first 16 hex digits of the SHA-256 of a secret: how secrets appear in
// the history.
func Fingerprint(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:8])
}

// sign returns the signature of WeChat's pushes: SHA-1 over the sorted parts.
func sign(parts ...string) string {
	slices.Sort(parts)
	sum := sha1.Sum([]byte(strings.Join(parts, "")))
	return hex.EncodeToString(sum[:])
}

// encrypt returns message as WeChat encrypts it: base64 of AES-256-CBC over
// 16 random bytes, the length, the message and the appid.
func encrypt(key []byte, random [16]byte, message []byte, appid string) (string, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return "", fmt.Errorf("encrypt: %w", err)
	}
	text := make([]byte, 0, 20+len(message)+len(appid)+padBlock)
	text = append(text, random[:]...)
	text = binary.BigEndian.AppendUint32(text, uint32(len(message)))
	text = append(text, message...)
	text = append(text, appid...)
	pad := padBlock - len(text)%padBlock // a whole block if the length fits
	text = append(text, bytes.Repeat([]byte{byte(pad)}, pad)...)
	cipher.NewCBCEncrypter(block, key[:aes.BlockSize]).CryptBlocks(text, text)
	return base64.StdEncoding.EncodeToString(text), nil
}

// decrypt is the reverse of encrypt. It returns the message and the appid at its end.
func decrypt(key []byte, encoded string) (message []byte, appid string, err error) {
	text, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, "", errors.New("decrypt: not base64")
	}
	if len(text) == 0 || len(text)%aes.BlockSize != 0 {
		return nil, "", fmt.Errorf("decrypt: %d bytes are not whole blocks", len(text))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, "", fmt.Errorf("decrypt: %w", err)
	}
	cipher.NewCBCDecrypter(block, key[:aes.BlockSize]).CryptBlocks(text, text)
	pad := int(text[len(text)-1])
	if pad < 1 || pad > padBlock || pad > len(text) {
		return nil, "", errors.New("decrypt: wrong padding")
	}
	text = text[:len(text)-pad]
	if len(text) < 20 {
		return nil, "", errors.New("decrypt: shorter than its head")
	}
	length, rest := int(binary.BigEndian.Uint32(text[16:20])), text[20:]
	if length > len(rest) {
		return nil, "", errors.New("decrypt: length beyond the end")
	}
	return rest[:length], string(rest[length:]), nil
}

// equal compares two texts in constant time, as a real platform should.
func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
