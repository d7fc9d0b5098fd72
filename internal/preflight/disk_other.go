//go:build !(linux || darwin || freebsd)

package preflight

// diskSize is not implemented for this system.
func diskSize(string) (size uint64, found bool) { return 0, false }
