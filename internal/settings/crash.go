package settings

import (
	"os"
	"strconv"
	"strings"
	"sync"
)

// CrashPoints reads the variable WXTOKEN_CRASH, "<point>:<n>", and returns a function that rooms call
// when they pass a named point. At the n-th passing of the named one the process kills itself with
// SIGKILL, as a power cut or an out-of-memory kill would: nothing is flushed and nobody is told. It is
// how tests of real processes choose the moment. Without the variable it returns nil.
func CrashPoints() func(point string) {
	at, count, ok := strings.Cut(os.Getenv(Variable("crash")), ":")
	left, err := strconv.Atoi(count)
	if !ok || err != nil || left < 1 {
		return nil
	}
	var mu sync.Mutex
	return func(point string) {
		if point != at {
			return
		}
		mu.Lock() // never released by the last: nobody passes a dead process
		left--
		if left > 0 {
			mu.Unlock()
			return
		}
		self, err := os.FindProcess(os.Getpid())
		if err == nil {
			err = self.Kill()
		}
		if err != nil {
			panic(err)
		}
		select {} // the signal is on its way
	}
}
