package document

// maxAppID bounds an appid, in bytes. WeChat's own are 18 long.
const maxAppID = 64

// IsAppID reports whether s can be an appid: 1 to 64 of A-Z a-z 0-9 _ -. WeChat's are "wx" and 16
// hex digits; what matters is that no character has a meaning in a subject, a path or a log line.
func IsAppID(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-') {
			return false
		}
	}
	return len(s) > 0 && len(s) <= maxAppID
}
