package settings

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/rs/zerolog"

	"wxtoken/client"
)

// Exit codes of Main.
const (
	exitOK       = 0
	exitFailed   = 1
	exitSettings = 2
)

// Program is an executable with its settings.
type Program struct {
	Name        string // name of the executable
	Description string // what it does, for --help
	// Defaults that replace those in the tags, by flag: {"ops-addr": "127.0.0.1:8082"}.
	Defaults map[string]string
}

// Parse fills cfg, a pointer to a struct with kong's tags, from args, the environment and the
// defaults, and then calls Validate() error on cfg and on every struct within it that has one.
// It returns an *Error with everything that is wrong, and never prints or exits.
func (p Program) Parse(cfg any, args []string) error {
	k, err := p.model(cfg)
	if err != nil {
		return err
	}
	var faults []error
	note := func(err error) { faults = append(faults, err) }
	for _, flag := range k.Model.Flags {
		flag.Envs = slices.DeleteFunc(flag.Envs, blank)
		flag.Tag.Envs = flag.Envs
		flag.Mapper = &collecting{Mapper: flag.Mapper, isBool: flag.IsBool(), note: note}
	}
	args, unknown := dropUnknown(k, args)
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
	return NewError(faults...)
}

// blank reports whether a variable is set to nothing. It counts as not set: in a file of settings, a line without
// a value means the default.
func blank(name string) bool {
	value, set := os.LookupEnv(name)
	return set && strings.TrimSpace(value) == ""
}

// model builds kong's model of cfg. An error is a fault in the tags, not in the settings.
func (p Program) model(cfg any) (*kong.Kong, error) {
	k, err := kong.New(cfg, kong.Name(p.Name), kong.Description(p.Description), kong.NoDefaultHelp(),
		kong.DefaultEnvars(envPrefix), kong.TypeMapper(reflect.TypeFor[wxtoken.Secret](), kong.MapperFunc(decodeSecret)),
		kong.TypeMapper(reflect.TypeFor[[]string](), kong.MapperFunc(decodeList)))
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

// decodeSecret reads a secret. It accepts any value, so that no error can show one.
func decodeSecret(ctx *kong.DecodeContext, target reflect.Value) error {
	var value string
	if err := ctx.Scan.PopValueInto("secret", &value); err != nil {
		return err
	}
	target.Set(reflect.ValueOf(wxtoken.NewSecret(strings.TrimSpace(value))))
	return nil
}

// decodeList reads a list separated by commas. It drops space around a part, and empty parts: a flag set to
// nothing is an empty list. A repeated flag adds to the list.
func decodeList(ctx *kong.DecodeContext, target reflect.Value) error {
	var value string
	if err := ctx.Scan.PopValueInto("list", &value); err != nil {
		return err
	}
	for part := range strings.SplitSeq(value, ",") {
		if part = strings.TrimSpace(part); part != "" {
			target.Set(reflect.Append(target, reflect.ValueOf(part)))
		}
	}
	return nil
}

// collecting is a mapper that notes the error of a value and goes on with the default: kong itself stops at the
// first error.
type collecting struct {
	kong.Mapper
	isBool bool
	note   func(error)
}

// IsBoolFromValue tells kong whether the flag stands without a value.
func (n *collecting) IsBoolFromValue(reflect.Value) bool { return n.isBool }

// Decode reads one value.
func (n *collecting) Decode(ctx *kong.DecodeContext, target reflect.Value) error {
	err := n.Mapper.Decode(ctx, target)
	if err == nil {
		return nil
	}
	n.note(Fault(ctx.Value.Name, "%w", err))
	target.SetZero()
	if !ctx.Value.HasDefault {
		return nil
	}
	scan := kong.ScanFromTokens(kong.Token{Type: kong.FlagValueToken, Value: ctx.Value.Default})
	return n.Mapper.Decode(&kong.DecodeContext{Value: ctx.Value, Scan: scan}, target)
}

// dropUnknown removes from args what kong would stop at: unknown flags with their values, and words that belong to
// no flag. The faults do not show those words: one might be a secret.
func dropUnknown(k *kong.Kong, args []string) (known []string, faults []error) {
	value := notExpected // what the next word is
	for _, arg := range args {
		if !strings.HasPrefix(arg, "--") {
			switch value {
			case valueOfFlag:
				known = append(known, arg)
			case notExpected:
				faults = append(faults, errors.New("a word that belongs to no flag: flags are written --name=value"))
			}
			value = notExpected
			continue
		}
		name, _, hasValue := strings.Cut(arg[2:], "=")
		i := slices.IndexFunc(k.Model.Flags, func(f *kong.Flag) bool { return f.Name == name })
		value = valueOfFlag
		if i < 0 {
			value = valueOfUnknown
			faults = append(faults, unknownFlag(k, name))
		} else {
			known = append(known, arg)
		}
		if hasValue || i >= 0 && k.Model.Flags[i].IsBool() {
			value = notExpected
		}
	}
	return known, faults
}

// What the next word is to dropUnknown, if it is not a flag.
const (
	notExpected    = iota // it belongs to no flag: a fault
	valueOfFlag           // it is the value of a flag: kept
	valueOfUnknown        // it is the value of an unknown flag: dropped
)

// unknownFlag returns kong's error for an unknown flag, which suggests the one that was probably meant.
func unknownFlag(k *kong.Kong, name string) error {
	parsed, err := kong.Trace(k, []string{"--" + name})
	if err == nil {
		err = parsed.Error
	}
	return fmt.Errorf("%w (--help lists them all)", err)
}

// validate calls Validate on all structs within v that have it, the inner ones first.
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

// WriteHelp writes the text of --help: all flags with their variables and defaults, in the order of the struct. It
// does not depend on the terminal or the environment.
func (p Program) WriteHelp(w io.Writer, cfg any) error {
	k, err := p.model(cfg)
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: %s [--flag=value ...]\n\n%s\n\n", p.Name, p.Description)
	b.WriteString("Every setting is a flag or a variable; the flag wins, then the variable, then the default.\n")
	group := ""
	for _, flag := range k.Model.Flags {
		if flag.Hidden {
			continue
		}
		if flag.Group != nil && flag.Group.Title != group {
			group = flag.Group.Title
			fmt.Fprintf(&b, "\n%s:\n", group)
		}
		fmt.Fprintf(&b, "  --%s%s  %s\n", flag.Name, example(flag), strings.Join(flag.Envs, ", "))
		fmt.Fprintf(&b, "        %s\n", flag.Help)
	}
	b.WriteString("\n  --check\n        Check everything that the process needs, print a line for each check, with the remedy, and exit with 0 if none failed.\n")
	b.WriteString("  --healthcheck\n        Ask the running process with the same settings whether it is ready, and exit with 0 if it is.\n")
	b.WriteString("  --version\n        Print the version.\n  --help\n        Print this.\n")
	_, err = io.WriteString(w, b.String())
	return err
}

// example returns what follows the name of a flag in the help: its default, or a placeholder.
func example(flag *kong.Flag) string {
	switch {
	case flag.IsBool():
		return ""
	case flag.HasDefault:
		return "=" + flag.Default
	case flag.PlaceHolder != "":
		return "=<" + flag.PlaceHolder + ">"
	}
	return "=<" + flag.Target.Kind().String() + ">"
}

// LogSettings logs a line with all settings in force. Of a secret it says only whether it is set.
func (p Program) LogSettings(log zerolog.Logger, cfg any) error {
	k, err := p.model(cfg)
	if err != nil {
		return err
	}
	e := log.Info()
	for _, flag := range k.Model.Flags {
		switch value := flag.Target.Interface().(type) {
		case wxtoken.Secret:
			e = e.Bool(flag.Name+"-set", !value.IsZero())
		case []string:
			e = e.Str(flag.Name, Redact(strings.Join(value, ",")))
		default:
			e = e.Str(flag.Name, Redact(fmt.Sprint(value)))
		}
	}
	e.Msg("settings read")
	return nil
}

// checkFlag calls check instead of run.
const checkFlag = "--check"

// Main is a main function without its settings: it parses the command line into cfg, calls run with a context that
// ends on SIGINT or SIGTERM, and returns the exit code: 0 when run returned nil, 1 when it failed, 2 when settings
// are refused (an *Error of Parse or run). A second signal ends the process at once. With --check it calls check
// instead, which writes its report to out and returns an error if a check failed.
func (p Program) Main(cfg any, run func(ctx context.Context) error, check func(ctx context.Context, out io.Writer) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return p.main(ctx, cfg, os.Args[1:], os.Stdout, os.Stderr, run, check)
}

// main is Main with all that it takes from the process as arguments.
func (p Program) main(ctx context.Context, cfg any, args []string, stdout, stderr io.Writer,
	run func(ctx context.Context) error, check func(ctx context.Context, out io.Writer) error) int {
	var err error
	switch {
	case slices.Contains(args, "--help") || slices.Contains(args, "-h"):
		err = p.WriteHelp(stdout, cfg)
	case slices.Contains(args, "--version"):
		_, err = fmt.Fprintln(stdout, p.Name, VersionLine())
	case slices.Contains(args, healthcheckFlag):
		err = p.healthcheck(ctx, cfg, args)
	case slices.Contains(args, checkFlag):
		if err = p.Parse(cfg, without(args, checkFlag)); err == nil {
			err = check(ctx, stdout)
		}
	default:
		if err = p.Parse(cfg, args); err == nil {
			err = run(ctx)
		}
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			err = nil // ended as asked
		}
	}
	if err == nil {
		return exitOK
	}
	_, _ = fmt.Fprintf(stderr, "%s: %s\n", p.Name, Redact(err.Error()))
	if refused := (*Error)(nil); errors.As(err, &refused) {
		_, _ = fmt.Fprintf(stderr, "%s --help lists every setting.\n", p.Name)
		return exitSettings
	}
	return exitFailed
}

// without returns args without a flag.
func without(args []string, flag string) []string {
	return slices.DeleteFunc(slices.Clone(args), func(arg string) bool { return arg == flag })
}
