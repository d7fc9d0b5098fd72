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

// componentPoll is the time between two readings of the components.
const componentPoll = 5 * time.Second

// ComponentWatch follows the components while the process runs.
type ComponentWatch struct {
	Components ComponentSettings  // these three as for LoadComponents
	Secret     *AppsecretSettings //
	Push       *PushSettings      //
	Known      []Component        // the components at the start

	// Changed is called with all components, sorted by appid, when one was added or removed, or its
	// secrets or its page changed. If it returns an error, the ones of before stay in force, and it is
	// called again.
	Changed func([]Component) error

	Every time.Duration // between two readings; 0 = 5 s
	Log   zerolog.Logger
}

// Run follows the components until ctx ends. It always returns nil: faults are logged, and never stop the process or
// a component that was usable before.
//
//   - A component that is now faulty, for instance half copied, keeps its secrets. Changes of others take effect.
//   - A change takes effect when two readings, a fifth of Every apart, agree on it: files are written one after
//     the other, and a folder may be missing for a moment while it is replaced.
//   - A component is removed when its folder is gone and the directory still holds the folder of another one. An
//     empty or unreadable directory removes no component: that is what an unmounted volume looks like. For the
//     same reason the last usable component stays. To get rid of those, stop the process.
//
// It reads all files each time: secrets are mounted as links that are swapped, in ways that differ between systems.
// Reading a few small files every few seconds is cheap, simple and certain; notifications of a file system are not.
func (w ComponentWatch) Run(ctx context.Context) error {
	f := watcher{ComponentWatch: w, known: map[string]Component{}}
	f.Every = cmp.Or(w.Every, componentPoll)
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
		if f.poll() {
			wait /= 5
		}
	}
}

// watcher is a running ComponentWatch.
type watcher struct {
	ComponentWatch
	known  map[string]Component // in force
	last   *loader              // the previous reading
	logged map[string]bool      // faults of the previous reading, which have been logged
}

// poll reads the components once, and applies confirmed changes. It reports whether there is a change that a second
// reading has to confirm.
func (f *watcher) poll() (again bool) {
	now := load(f.Components, f.Secret, f.Push)
	next := maps.Clone(f.known)
	messages := map[string]string{} // log message for each component that changes
	for appid, c := range now.good {
		before, had := f.known[appid]
		if had && before.Equal(c) {
			continue
		}
		if seen, ok := f.last.good[appid]; !ok || !seen.Equal(c) {
			again = true
			continue
		}
		next[appid], messages[appid] = c, "component added"
		if had {
			messages[appid] = "component's secrets changed"
			if before.Page = c.Page; before.Equal(c) {
				messages[appid] = "component's page changed"
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
		messages[appid] = "component removed"
	}
	f.last = now
	switch {
	case len(next) == 0:
		now.fault(Fault("components-dir", "%s holds no usable component: those of before stay in force", f.Components.ComponentsDir))
	case len(messages) > 0:
		if err := f.Changed(byAppID(next)); err != nil {
			now.fault(fmt.Errorf("apply changed components: %w", err))
			break
		}
		f.known = next
		for _, appid := range slices.Sorted(maps.Keys(messages)) {
			f.Log.Info().Str("component", appid).Msg(messages[appid])
		}
	}
	f.logFaults(now.faults)
	return again
}

// logFaults logs the faults that the previous reading did not have.
func (f *watcher) logFaults(faults []error) {
	logged := map[string]bool{}
	for _, err := range leaves(errors.Join(faults...)) {
		text := Redact(err.Error())
		if !f.logged[text] && !logged[text] {
			f.Log.Warn().Str("error", text).Str("hint", "a component that was usable before stays in force").Msg("component settings refused")
		}
		logged[text] = true
	}
	f.logged = logged
}

// holds reports whether the reading found the component, usable or faulty.
func (l *loader) holds(appid string) bool {
	_, good := l.good[appid]
	return good || l.faulty[appid]
}

// Equal reports whether two components are equal, including their secrets and pages.
func (c Component) Equal(other Component) bool {
	return c.AppID == other.AppID && c.AppSecret == other.AppSecret &&
		slices.Equal(c.Tokens, other.Tokens) && slices.Equal(c.AESKeys, other.AESKeys) && reflect.DeepEqual(c.Page, other.Page)
}
