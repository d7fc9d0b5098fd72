package wechat

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"wxtoken/client/document"
)

// The layout of what is encrypted ("Technical_Plan"): 16 random bytes, the length of the text
// in four bytes, the text, the component's appid, PKCS#7 padding to blocks of 32 bytes.
const (
	prefixSize   = 16
	headSize     = prefixSize + 4
	padBlock     = 32 // bytes; twice the block of AES
	aesKeyLength = 43 // characters of an EncodingAESKey
)

// Keys is what the component's page on the platform's console shows under message encryption.
// Tokens and AESKeys hold the current one first, then earlier ones: while a changed setting is
// being released, WeChat uses both.
type Keys struct {
	hidden
	AppID   string   // component_appid
	Tokens  []string // signs
	AESKeys []string // EncodingAESKey, 43 characters each
}

// Crypter decrypts what WeChat encrypted, and encrypts answers for WeChat. It is safe for
// concurrent use.
type Crypter struct {
	hidden
	appID  string
	tokens []string
	keys   []aesKey
	prefix func() string // the 16 random bytes before a text
}

// aesKey is a decoded EncodingAESKey.
type aesKey struct {
	block cipher.Block
	iv    []byte // the first 16 bytes of the key, as in all official samples
}

// NewCrypter returns a Crypter for k. Its error names every fault of k and shows none of the keys.
func NewCrypter(k Keys) (*Crypter, error) {
	c := &Crypter{
		appID:  k.AppID,
		tokens: slices.Clone(k.Tokens),
		// "Technical_Plan" speaks of a random string, so only letters and digits.
		prefix: func() string { return rand.Text()[:prefixSize] },
	}
	var faults []error
	if !document.IsAppID(k.AppID) {
		faults = append(faults, errors.New("component_appid: want 1 to 64 of A-Z a-z 0-9 _ -, such as wx1234567890abcdef"))
	}
	if len(k.Tokens) == 0 {
		faults = append(faults, errors.New("token: none given (copy it from the platform's console)"))
	}
	for i, token := range k.Tokens {
		if !isPrintable(token, 128) {
			faults = append(faults, fmt.Errorf("token %d of %d: want 1 to 128 visible ASCII characters without spaces, "+
				"as on the platform's console", i+1, len(k.Tokens)))
		}
	}
	if len(k.AESKeys) == 0 {
		faults = append(faults, errors.New("EncodingAESKey: none given (copy it from the platform's console)"))
	}
	for i, text := range k.AESKeys {
		key, err := decodeAESKey(text)
		if err != nil {
			faults = append(faults, fmt.Errorf("EncodingAESKey %d of %d: %w", i+1, len(k.AESKeys), err))
			continue
		}
		c.keys = append(c.keys, key)
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("component's keys: %w", errors.Join(faults...))
	}
	return c, nil
}

func decodeAESKey(text string) (aesKey, error) {
	if len(text) != aesKeyLength {
		return aesKey{}, fmt.Errorf("want %d characters, got %d (copy it from the platform's console)", aesKeyLength, len(text))
	}
	// Not strict: the last character has two spare bits, which are not always zero in WeChat's
	// keys.
	raw, err := base64.StdEncoding.DecodeString(text + "=")
	if err != nil || len(raw) != 32 {
		return aesKey{}, errors.New("want letters and digits only, as on the platform's console")
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return aesKey{}, fmt.Errorf("make the cipher: %w", err)
	}
	return aesKey{block: block, iv: raw[:aes.BlockSize]}, nil
}

// Opened is a text that WeChat signed and encrypted for us.
type Opened struct {
	hidden
	Text  []byte
	Key   int // index into Keys.AESKeys of the key that decrypted
	Token int // index into Keys.Tokens of the token that verified
}

// signRoom is the most that a token, a timestamp and a nonce take, in bytes.
const signRoom = 128 + 10 + 32

// strictBase64 refuses spare bits that are not zero, so that each ciphertext has only one spelling.
var strictBase64 = base64.StdEncoding.Strict()

// Open verifies q.MsgSignature over encrypt, the base64 of an envelope, and only then decrypts it.
// A fault after the signature means that the sender knows our token, or that our settings are
// wrong. The error is a *Refusal: ReasonSignatureSyntax, ReasonNoEncrypt, ReasonSignature,
// ReasonDecrypt or ReasonAppID.
func (c *Crypter) Open(q Query, encrypt []byte) (Opened, error) {
	if !isSignature(q.MsgSignature) {
		return Opened{}, refuse(ReasonSignatureSyntax, "msg_signature is missing or not 40 lower-case hex digits")
	}
	if len(encrypt) == 0 {
		return Opened{}, refuse(ReasonNoEncrypt, "nothing to decrypt")
	}
	room := make([]byte, 0, signRoom+len(encrypt)) // scratch space for all that follows
	token := c.verify(room, q.MsgSignature, q.Timestamp, q.Nonce, encrypt)
	if token < 0 {
		return Opened{}, refuse(ReasonSignature, "msg_signature fits none of %d tokens: compare the token with the "+
			"platform's console", len(c.tokens))
	}
	// The decoder skips line breaks; WeChat sends none.
	if bytes.IndexByte(encrypt, '\n') >= 0 || bytes.IndexByte(encrypt, '\r') >= 0 {
		return Opened{}, refuse(ReasonDecrypt, "Encrypt has a line break")
	}
	sealed := room[:strictBase64.DecodedLen(len(encrypt))]
	n, err := strictBase64.Decode(sealed, encrypt)
	if err != nil {
		return Opened{}, refuse(ReasonDecrypt, "Encrypt is not standard base64")
	}
	sealed = sealed[:n]
	if n == 0 || n%padBlock != 0 {
		return Opened{}, refuse(ReasonDecrypt, "Encrypt holds %d bytes, want a multiple of %d", n, padBlock)
	}
	plain := sealed
	reason := ReasonDecrypt
	for i, key := range c.keys {
		if i == 0 && len(c.keys) > 1 {
			plain = make([]byte, n) // sealed must be kept for the next key
		}
		cipher.NewCBCDecrypter(key.block, key.iv).CryptBlocks(plain, sealed)
		text, appID, ok := split(plain)
		if !ok {
			continue
		}
		if subtle.ConstantTimeCompare(appID, []byte(c.appID)) == 1 {
			return Opened{Text: text, Key: i, Token: token}, nil
		}
		reason = ReasonAppID
	}
	if reason == ReasonAppID {
		return Opened{}, refuse(ReasonAppID, "encrypted for another appid than this component's")
	}
	return Opened{}, refuse(ReasonDecrypt, "signed with our token, but none of %d EncodingAESKeys decrypts it: "+
		"compare them with the platform's console", len(c.keys))
}

// split removes the padding of plain, a multiple of 32 bytes, and returns text and appid. Its
// duration does not depend on where the padding is wrong.
func split(plain []byte) (text, appID []byte, ok bool) {
	size := int(plain[len(plain)-1])
	good := subtle.ConstantTimeLessOrEq(1, size) & subtle.ConstantTimeLessOrEq(size, padBlock)
	for i, b := range plain[len(plain)-padBlock:] {
		inPad := subtle.ConstantTimeLessOrEq(padBlock-size, i)
		good &= subtle.ConstantTimeSelect(inPad, subtle.ConstantTimeByteEq(b, byte(size)), 1)
	}
	if good != 1 || len(plain)-size < headSize {
		return nil, nil, false
	}
	plain = plain[:len(plain)-size]
	length := binary.BigEndian.Uint32(plain[prefixSize:])
	rest := plain[headSize:]
	if length == 0 || uint64(length) > uint64(len(rest)) {
		return nil, nil, false
	}
	return rest[:length:length], rest[length:], true
}

// verify returns the index of the token that gives this signature over the values, or -1. It uses
// scratch as working memory.
func (c *Crypter) verify(scratch []byte, signature, timestamp, nonce string, encrypt []byte) int {
	for i, token := range c.tokens {
		want := sign(scratch, token, timestamp, nonce, encrypt)
		if subtle.ConstantTimeCompare(want[:], []byte(signature)) == 1 {
			return i
		}
	}
	return -1
}

// sign returns the lower-case hex SHA-1 over the values in byte order without separators
// ("message_push"). encrypt is nil in the signature of a GET. It uses scratch as working memory.
func sign(scratch []byte, token, timestamp, nonce string, encrypt []byte) (signature [2 * sha1.Size]byte) {
	values := [3]string{token, timestamp, nonce}
	for i := range values {
		for j := i; j > 0 && values[j] < values[j-1]; j-- {
			values[j], values[j-1] = values[j-1], values[j]
		}
	}
	text, placed := scratch[:0], false
	for _, value := range values {
		if !placed && string(encrypt) < value {
			text, placed = append(text, encrypt...), true
		}
		text = append(text, value...)
	}
	if !placed {
		text = append(text, encrypt...)
	}
	sum := sha1.Sum(text)
	hex.Encode(signature[:], sum[:])
	return signature
}

// CheckSignature reports whether q.Signature is right for q.Timestamp and q.Nonce. It does not
// cover a body: use it only for a GET with echostr, and for plain mode.
func (c *Crypter) CheckSignature(q Query) bool {
	return c.verify(make([]byte, 0, signRoom), q.Signature, q.Timestamp, q.Nonce, nil) >= 0
}

// Reply is an encrypted answer to a push, or an encrypted push.
type Reply struct {
	Encrypt, MsgSignature, Timestamp, Nonce string
}

// Answer encrypts text as the answer to a push that Open opened, with the key and the token of the
// push: while a changed setting is being released, WeChat may not know the new ones yet. timestamp
// is ten digits of epoch seconds, nonce 1 to 32 letters and digits.
func (c *Crypter) Answer(to Opened, timestamp, nonce string, text []byte) (Reply, error) {
	switch {
	case to.Key < 0 || to.Key >= len(c.keys):
		return Reply{}, fmt.Errorf("seal: key %d of %d does not exist", to.Key, len(c.keys))
	case to.Token < 0 || to.Token >= len(c.tokens):
		return Reply{}, fmt.Errorf("seal: token %d of %d does not exist", to.Token, len(c.tokens))
	case len(text) == 0:
		return Reply{}, errors.New("seal: the text is empty")
	case !isTimestamp(timestamp) || timestamp[0] == '0': // JSON has no number with a leading zero
		return Reply{}, errors.New("seal: timestamp is not ten digits of epoch seconds")
	case !isNonce(nonce):
		return Reply{}, errors.New("seal: nonce is not 1 to 32 letters and digits")
	}
	size := headSize + len(text) + len(c.appID)
	pad := padBlock - size%padBlock
	sealed := make([]byte, 0, size+pad)
	sealed = append(sealed, c.prefix()...)
	sealed = binary.BigEndian.AppendUint32(sealed, uint32(len(text)))
	sealed = append(sealed, text...)
	sealed = append(sealed, c.appID...)
	sealed = append(sealed, bytes.Repeat([]byte{byte(pad)}, pad)...)
	key := c.keys[to.Key]
	cipher.NewCBCEncrypter(key.block, key.iv).CryptBlocks(sealed, sealed)
	encrypt := base64.StdEncoding.EncodeToString(sealed)
	signature := sign(nil, c.tokens[to.Token], timestamp, nonce, []byte(encrypt))
	return Reply{Encrypt: encrypt, MsgSignature: string(signature[:]), Timestamp: timestamp, Nonce: nonce}, nil
}

// XML returns the reply as WeChat wants it for a push in XML ("message_push").
func (r Reply) XML() []byte {
	return []byte("<xml><Encrypt><![CDATA[" + r.Encrypt + "]]></Encrypt><MsgSignature><![CDATA[" + r.MsgSignature +
		"]]></MsgSignature><TimeStamp>" + r.Timestamp + "</TimeStamp><Nonce><![CDATA[" + r.Nonce + "]]></Nonce></xml>")
}

// JSON returns the reply as WeChat wants it for a push in JSON ("message-push" of mini programs).
func (r Reply) JSON() []byte {
	// Nothing to escape: Answer has checked the fields.
	return []byte(`{"Encrypt":"` + r.Encrypt + `","MsgSignature":"` + r.MsgSignature +
		`","TimeStamp":` + r.Timestamp + `,"Nonce":"` + r.Nonce + `"}`)
}
