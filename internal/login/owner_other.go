//go:build !unix

package login

import "os"

// keepOwner does nothing on this system.
func keepOwner(*os.File, os.FileInfo) error { return nil }
