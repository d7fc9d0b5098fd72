//go:build !crash

package settings

// CrashAt returns nil: only a program built with the tag "crash", for tests, kills itself.
func CrashAt() func(step string) { return nil }
