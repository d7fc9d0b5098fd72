package wechatsim

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
