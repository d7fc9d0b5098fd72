package wechat

import "fmt"

// Reason says in one word why a push was refused. Reasons are values of a metric's label, so there
// are only few.
type Reason string

// The reasons for refusing a push, in the order of the checks.
const (
	ReasonQuery           Reason = "query"        // the query string can't be read
	ReasonQueryDup        Reason = "query_dup"    // a parameter is given twice
	ReasonTimestamp       Reason = "ts_syntax"    // timestamp is not ten digits
	ReasonNonce           Reason = "nonce_syntax" // nonce is not 1 to 32 letters and digits
	ReasonSignatureSyntax Reason = "sig_syntax"   // msg_signature is missing or not 40 lower-case hex digits
	ReasonEmpty           Reason = "empty"        // the body or document is empty
	ReasonXML             Reason = "xml"          // not XML, or XML that WeChat never sends
	ReasonXMLShape        Reason = "xml_shape"    // well-formed, but ambiguous or out of bounds
	ReasonJSON            Reason = "json"         // not JSON, or ambiguous or out of bounds
	ReasonNoEncrypt       Reason = "no_encrypt"   // nothing encrypted in the body: never trusted
	ReasonSignature       Reason = "signature"    // msg_signature does not fit any of our tokens
	ReasonDecrypt         Reason = "decrypt"      // signed, but none of our keys decrypts it
	ReasonAppID           Reason = "appid"        // encrypted for another component
	ReasonAppIDSyntax     Reason = "appid_syntax" // a malformed appid
	ReasonField           Reason = "field"        // a field is missing, or has a value that WeChat never sends
)

// Refusal is the error of every step of reading a push.
type Refusal struct {
	Reason Reason
	Detail string // what is wrong and where; quotes nothing of the push
}

// Error returns reason and detail.
func (r *Refusal) Error() string { return "push refused: " + string(r.Reason) + ": " + r.Detail }

func refuse(reason Reason, format string, args ...any) error {
	return &Refusal{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}
