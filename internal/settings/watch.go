package settings

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/rs/zerolog"
)

// watchEvery is the time between two readings of the components.
const watchEvery = 5 * time.Second

// ComponentWatch follows the components of a process while it runs.
type ComponentWatch struct {
	Components ComponentSettings  // these three as LoadComponents got them
	Secret     *AppsecretSettings //
	Push       *PushSettings      //
	Known      []Component        // what the process began with

	// Changed is called with all components that are to be in force from now on, sorted by appid,
	// whenever one was added or removed, or has other secrets or another page. After an error the
	// ones before count as being in force, and it is called again.
	Changed func([]Component) error

	Every time.Duration // between two readings; 0 = 5 s
	Log   zerolog.Logger
}

// Run follows the components until ctx ends. It always returns nil: what can't be read, or can't be
// used, is logged and never stops a process or a component that was good before.
//
//   - A component that is faulty, half copied for instance, keeps the secrets that it had. The others
//     are taken all the same.
//   - A change is taken when two readings, a fifth of Every apart, agree on it: files are written one
//     after the other, and a folder may be away for a moment while it is replaced.
//   - A component is removed when its folder is gone and the directory still holds a folder of another
//     one. A directory that is empty, or can't be read, removes no component: that is what a mount looks like
//     that went away. For the same reason the last usable component stays. To end with those, stop the process.
//
// It reads everything each time: secrets are mounted as links that are swapped, by ways that differ
// between systems, and a few small files every few seconds are cheap, simple and certain where
// notifications of a file system are not.
func (w ComponentWatch) Run(ctx context.Context) error {
	f := following{ComponentWatch: w, known: map[string]Component{}}
	f.Every = cmp.Or(w.Every, watchEvery)
	for _, c := range w.Known {
		f.known[c.AppID] = c
	}
	f.last = &loader{good: f.known}
	for wait := f.Every; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = f.Every
		if f.look() {
			wait /= 5
		}
	}
}

// following is a ComponentWatch at work.
type following struct {
	ComponentWatch
	known map[string]Component // in force
	last  *loader              // the reading before
	told  map[string]bool      // faults of the reading before, which are in the log
}

// look reads once, and has what changed taken. It reports whether something differs that has to be
// seen once more first.
func (f *following) look() (again bool) {
	now := load(f.Components, f.Secret, f.Push)
	next := maps.Clone(f.known)
	said := map[string]string{} // what to say of each component that changes
	for appid, c := range now.good {
		before, had := f.known[appid]
		if had && before.Equal(c) {
			continue
		}
		if seen, ok := f.last.good[appid]; !ok || !seen.Equal(c) {
			again = true
			continue
		}
		next[appid], said[appid] = c, "component added"
		if had {
			said[appid] = "component's secrets changed"
			if before.Page = c.Page; before.Equal(c) {
				said[appid] = "component's page changed"
			}
		}
	}
	for appid := range f.known {
		if now.folders == 0 || now.holds(appid) {
			continue
		}
		if f.last.holds(appid) {
			again = true
			continue
		}
		delete(next, appid)
		said[appid] = "component removed"
	}
	f.last = now
	switch {
	case len(next) == 0:
		now.fault(Fault("components-dir", "%s holds no component that can be used: those before stay in force", f.Components.ComponentsDir))
	case len(said) > 0:
		if err := f.Changed(byAppID(next)); err != nil {
			now.fault(fmt.Errorf("take the changed components: %w", err))
			break
		}
		f.known = next
		for _, appid := range slices.Sorted(maps.Keys(said)) {
			f.Log.Info().Str("component", appid).Msg(said[appid])
		}
	}
	f.tell(now.faults)
	return again
}

// tell logs the faults that were not there at the reading before.
func (f *following) tell(faults []error) {
	told := map[string]bool{}
	for _, err := range leaves(errors.Join(faults...)) {
		text := Redact(err.Error())
		if !f.told[text] && !told[text] {
			f.Log.Warn().Str("error", text).Str("hint", "a component that was good before stays in force").Msg("component settings refused")
		}
		told[text] = true
	}
	f.told = told
}

// holds reports whether the reading found the component, good or faulty.
func (l *loader) holds(appid string) bool {
	_, good := l.good[appid]
	return good || l.faulty[appid]
}

// Equal reports whether two components are the same in everything.
func (c Component) Equal(other Component) bool {
	return c.AppID == other.AppID && c.AppSecret == other.AppSecret &&
		slices.Equal(c.Tokens, other.Tokens) && slices.Equal(c.AESKeys, other.AESKeys) && reflect.DeepEqual(c.Page, other.Page)
}
