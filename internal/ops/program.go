package ops

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"reflect"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/rs/zerolog"

	"wxtoken"
)

// envPrefix begins the name of every variable.
const envPrefix = "WXTOKEN"

// Exit codes of Main.
const (
	exitOK       = 0
	exitFailed   = 1
	exitSettings = 2
)

// Program is one executable and how it is set.
type Program struct {
	Name        string            // name of the executable
	Description string            // what it does, for --help
	Defaults    map[string]string // by flag, in place of the default in the tag: {"ops-addr": "127.0.0.1:8082"}
}

// SettingsError is returned for settings that can't be used. It lists all that is wrong with them.
type SettingsError struct {
	Faults []error // each names the flag and the variable, and says what to do
}

// Error returns the faults, one a line.
func (e *SettingsError) Error() string {
	lines := []string{"settings refused"}
	for _, fault := range e.Faults {
		lines = append(lines, "  "+fault.Error())
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the faults.
func (e *SettingsError) Unwrap() []error { return e.Faults }

// settingsError returns the faults as a SettingsError, without repeats, or nil when there are none.
func settingsError(faults ...error) error {
	seen := map[string]bool{}
	var e SettingsError
	for _, fault := range leaves(errors.Join(faults...)) {
		if text := fault.Error(); !seen[text] {
			seen[text] = true
			e.Faults = append(e.Faults, fault)
		}
	}
	if len(e.Faults) == 0 {
		return nil
	}
	return &e
}

// leaves takes apart what errors.Join or a SettingsError has put together.
func leaves(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		if err == nil {
			return nil
		}
		return []error{err}
	}
	if _, formatted := err.(fmt.Formatter); formatted {
		return []error{err}
	}
	var out []error
	for _, e := range joined.Unwrap() {
		out = append(out, leaves(e)...)
	}
	return out
}

// fault describes what is wrong with one setting, under both of its names.
func fault(flag, format string, args ...any) error {
	return fmt.Errorf("--%s (%s): %w", flag, variable(flag), fmt.Errorf(format, args...))
}

// variable returns the name of the environment variable that does what flag does.
func variable(flag string) string {
	return envPrefix + "_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Parse fills cfg, a pointer to a struct with kong's tags, from args, the environment and the
// defaults, and then calls Validate() error on cfg and on every struct within it that has one.
// It returns a SettingsError with everything that is wrong, and never prints or exits.
func (p Program) Parse(cfg any, args []string) error {
	k, err := p.model(cfg)
	if err != nil {
		return err
	}
	var faults []error
	note := func(err error) { faults = append(faults, err) }
	for _, flag := range k.Model.Flags {
		flag.Mapper = &noting{Mapper: flag.Mapper, isBool: flag.IsBool(), note: note}
	}
	args, unknown := knownOnly(k.Model.Flags, args)
	faults = append(faults, unknown...)
	parsed, err := kong.Trace(k, args)
	switch {
	case err != nil:
		note(err)
	case parsed.Error != nil:
		note(parsed.Error)
	default:
		if err := parsed.Reset(); err != nil {
			note(err)
		}
		if _, err := parsed.Apply(); err != nil {
			note(err)
		}
		validate(reflect.ValueOf(cfg), note)
		if err := parsed.Validate(); err != nil { // kong's own: enum, required
			note(err)
		}
	}
	return settingsError(faults...)
}

// model builds kong's picture of cfg. An error is a fault in the tags, not in the settings.
func (p Program) model(cfg any) (*kong.Kong, error) {
	k, err := kong.New(cfg, kong.Name(p.Name), kong.Description(p.Description), kong.NoDefaultHelp(),
		kong.DefaultEnvars(envPrefix), kong.TypeMapper(reflect.TypeFor[wxtoken.Secret](), kong.MapperFunc(decodeSecret)))
	if err != nil {
		return nil, fmt.Errorf("read the tags of the settings of %s: %w", p.Name, err)
	}
	for name, value := range p.Defaults {
		i := slices.IndexFunc(k.Model.Flags, func(f *kong.Flag) bool { return f.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("default for --%s, a flag that %s does not have", name, p.Name)
		}
		flag := k.Model.Flags[i]
		flag.Default, flag.HasDefault = value, true
	}
	return k, nil
}

// decodeSecret reads a secret. It accepts anything, so that no error can ever show one.
func decodeSecret(ctx *kong.DecodeContext, target reflect.Value) error {
	var value string
	if err := ctx.Scan.PopValueInto("secret", &value); err != nil {
		return err
	}
	target.Set(reflect.ValueOf(wxtoken.NewSecret(strings.TrimSpace(value))))
	return nil
}

// noting is a mapper that notes a value that can't be read and goes on with the default: kong
// by itself stops at the first.
type noting struct {
	kong.Mapper
	isBool bool
	note   func(error)
}

// IsBoolFromValue tells kong that the flag stands without a value.
func (n *noting) IsBoolFromValue(reflect.Value) bool { return n.isBool }

// Decode reads one value.
func (n *noting) Decode(ctx *kong.DecodeContext, target reflect.Value) error {
	err := n.Mapper.Decode(ctx, target)
	if err == nil {
		return nil
	}
	n.note(fault(ctx.Value.Name, "%w", err))
	target.SetZero()
	if !ctx.Value.HasDefault {
		return nil
	}
	scan := kong.ScanFromTokens(kong.Token{Type: kong.FlagValueToken, Value: ctx.Value.Default})
	return n.Mapper.Decode(&kong.DecodeContext{Value: ctx.Value, Scan: scan}, target)
}

// knownOnly takes the flags that do not exist, with their values, out of args.
func knownOnly(flags []*kong.Flag, args []string) (known []string, faults []error) {
	for i := 0; i < len(args); i++ {
		name, _, hasValue := strings.Cut(strings.TrimPrefix(args[i], "--"), "=")
		if !strings.HasPrefix(args[i], "--") {
			if i == 0 || !strings.HasPrefix(args[i-1], "--") {
				faults = append(faults, errors.New("a word that belongs to no flag: flags are written --name=value"))
				continue
			}
			known = append(known, args[i])
			continue
		}
		if slices.ContainsFunc(flags, func(f *kong.Flag) bool { return f.Name == name || slices.Contains(f.Negations(), name) }) {
			known = append(known, args[i])
			continue
		}
		faults = append(faults, unknownFlag(flags, name))
		if !hasValue && i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
			i++
		}
	}
	return known, faults
}

// validate calls Validate on every struct within v that has one, the inner ones first.
func validate(v reflect.Value, note func(error)) {
	v = reflect.Indirect(v)
	if v.Kind() != reflect.Struct {
		return
	}
	for i := range v.NumField() {
		if v.Type().Field(i).IsExported() {
			validate(v.Field(i), note)
		}
	}
	if checked, ok := v.Addr().Interface().(interface{ Validate() error }); ok {
		if err := checked.Validate(); err != nil {
			note(err)
		}
	}
}
