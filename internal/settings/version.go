package settings

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
)

// linkedVersion and linkedCommit are set by the linker (-X) in builds without a repository, such as those of an
// image. If they are empty, see Version.
var linkedVersion, linkedCommit string

// Version returns the version of the module, the commit it was built from and the Go that built it.
func Version() (module, commit, goVersion string) {
	module, commit, goVersion = "(devel)", "unknown", runtime.Version()
	if info, ok := debug.ReadBuildInfo(); ok {
		module = cmp.Or(info.Main.Version, module)
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = s.Value
			}
		}
	}
	return cmp.Or(linkedVersion, module), cmp.Or(linkedCommit, commit), goVersion
}

// VersionLine is what --version prints after the name of the program.
func VersionLine() string {
	module, commit, goVersion := Version()
	return fmt.Sprintf("%s (commit %s, %s)", module, commit, goVersion)
}
