//go:build !crash

package settings

// CrashAt returns nil: only a program that is built with the tag "crash", for tests, kills itself
// at a step.
func CrashAt() func(step string) { return nil }
