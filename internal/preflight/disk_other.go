//go:build !(linux || darwin || freebsd)

package preflight

// diskSize is not known here.
func diskSize(string) (size uint64, found bool) { return 0, false }
