package settings_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"wxtoken/client"
	"wxtoken/internal/logtest"
	"wxtoken/internal/natsconn"
	"wxtoken/internal/settings"
)

// room is the Config of some room: it knows no parser.
type room struct {
	RenewFraction float64       `group:"Renewal" default:"0.66" help:"Part of the life."`
	SimLife       time.Duration `group:"Renewal" default:"20s" help:"Life of a token."`
	ReturnHosts   []string      `group:"Renewal" placeholder:"host,..." help:"Hosts."`
	Derive        string        `group:"Renewal" default:"none" enum:"none,jsapi,wx_card" help:"What to derive."`
}

func (r room) Validate() error {
	if r.RenewFraction < 0.1 || r.RenewFraction > 0.95 {
		return errors.Join(errors.New("--renew-fraction (WXTOKEN_RENEW_FRACTION): want 0.1 to 0.95"), errors.New("a second fault of the room"))
	}
	return nil
}

type config struct {
	settings.Operations
	natsconn.Settings
	settings.AppsecretSettings
	Renewal room `embed:""`
}

var program = settings.Program{Name: "refresher", Description: "Renews tokens.", Defaults: map[string]string{"ops-addr": "127.0.0.1:8082"}}

func TestFlagBeatsVariableBeatsDefault(t *testing.T) {
	t.Setenv("WXTOKEN_NATS_URL", "nats://from-env:4222")
	t.Setenv("WXTOKEN_SIM_LIFE", "40s")
	t.Setenv("WXTOKEN_OPS_EXPOSE", "true")
	t.Setenv("WXTOKEN_COMPONENT_APPSECRET", " SEKRET-1\n")
	t.Setenv("WXTOKEN_NO_SUCH_SETTING", "ignored")
	var cfg config
	if err := program.Parse(&cfg, []string{"--nats-url=nats://from-flag:4222", "--log-level", "warn"}); err != nil {
		t.Fatal(err)
	}
	got := []any{cfg.NatsURL, cfg.Renewal.SimLife, cfg.OpsExpose, cfg.LogLevel, cfg.OpsAddr, cfg.Renewal.RenewFraction, cfg.ComponentAppsecret.Reveal()}
	want := []any{"nats://from-flag:4222", 40 * time.Second, true, "warn", "127.0.0.1:8082", 0.66, "SEKRET-1"}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("setting %d: got %v, want %v", i, got[i], want[i])
		}
	}
}

// A list is written the same way as a flag and as a variable.
// A variable that is set to nothing, as a line of an env file whose value is left out, is no setting: the default holds.
func TestEmptyVariables(t *testing.T) {
	var want, got config
	if err := program.Parse(&want, nil); err != nil {
		t.Fatal(err)
	}
	log, out := logtest.New()
	if err := program.LogSettings(log, &want); err != nil {
		t.Fatal(err)
	}
	var settings map[string]any
	if err := json.Unmarshal([]byte(out.String()), &settings); err != nil {
		t.Fatal(err)
	}
	for name := range settings {
		name = strings.ToUpper(strings.ReplaceAll(strings.TrimSuffix(name, "-set"), "-", "_"))
		for _, empty := range []string{"", " \t"} {
			t.Setenv("WXTOKEN_"+name, empty)
			if err := program.Parse(&got, nil); err != nil {
				t.Errorf("WXTOKEN_%s=%q: %v", name, empty, err)
			} else if !reflect.DeepEqual(got, want) {
				t.Errorf("WXTOKEN_%s=%q: %+v, want the defaults %+v", name, empty, got, want)
			}
		}
	}
}

func TestLists(t *testing.T) {
	for _, row := range []struct {
		name, variable string
		args, want     []string
	}{
		{"neither", "", nil, nil},
		{"variable", "a.example, b.example,", nil, []string{"a.example", "b.example"}},
		{"empty variable", " ", nil, nil},
		{"flag", "", []string{"--return-hosts=a.example,b.example:8443"}, []string{"a.example", "b.example:8443"}},
		{"flag beats variable", "a.example", []string{"--return-hosts", "b.example"}, []string{"b.example"}},
		{"flag repeated", "", []string{"--return-hosts=a.example", "--return-hosts=b.example"}, []string{"a.example", "b.example"}},
		{"empty flag beats variable", "a.example", []string{"--return-hosts="}, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Setenv("WXTOKEN_RETURN_HOSTS", row.variable)
			var cfg config
			for range 2 { // a program may be parsed twice
				if err := program.Parse(&cfg, row.args); err != nil {
					t.Fatal(err)
				}
			}
			if !slices.Equal(cfg.Renewal.ReturnHosts, row.want) {
				t.Errorf("got %q, want %q", cfg.Renewal.ReturnHosts, row.want)
			}
			log, out := logtest.New()
			if err := program.LogSettings(log, &cfg); err != nil {
				t.Fatal(err)
			}
			if want := `"return-hosts":"` + strings.Join(row.want, ",") + `"`; !strings.Contains(out.String(), want) {
				t.Errorf("%s is missing in %s", want, out)
			}
		})
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	t.Setenv("WXTOKEN_SIM_LIFE", "soon")
	t.Setenv("WXTOKEN_RENEW_FRACTION", "1.5")
	t.Setenv("WXTOKEN_NATS_URL", "http://user:SEKRET-2@host")
	var cfg config
	err := program.Parse(&cfg, []string{"--ops-addr=0.0.0.0:80", "--natsurl", "x", "--log-level=loud", "--derive=all", "SEKRET-3", "--log-format=xml"})
	var refused *settings.Error
	if !errors.As(err, &refused) {
		t.Fatalf("got %v, want a SettingsError", err)
	}
	for _, want := range []string{
		"--sim-life (WXTOKEN_SIM_LIFE): ", `"soon"`,
		"--renew-fraction (WXTOKEN_RENEW_FRACTION): want", "a second fault of the room",
		"--nats-url (WXTOKEN_NATS_URL): ",
		"--ops-addr (WXTOKEN_OPS_ADDR): ", "--ops-expose (WXTOKEN_OPS_EXPOSE=true)",
		"unknown flag --natsurl", "--nats-url",
		"--log-level (WXTOKEN_LOG_LEVEL): ",
		"--log-format (WXTOKEN_LOG_FORMAT): ",
		"--derive must be one of",
		"belongs to no flag",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in:\n%v", want, err)
		}
	}
	if len(refused.Faults) != 10 {
		t.Errorf("%d faults, want 10:\n%v", len(refused.Faults), err)
	}
	if strings.Contains(err.Error(), "SEKRET") {
		t.Errorf("a secret is shown:\n%v", err)
	}
}

func TestParseRefusesArguments(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		args []string
		want string // the one fault
	}{
		{"value missing", []string{"--nats-url"}, "--nats-url"},
		{"single dash", []string{"-nats-url=x"}, "belongs to no flag"},
		{"stray word after a boolean", []string{"--ops-expose", "yes"}, "belongs to no flag"},
		{"unknown flag swallows its value", []string{"--nonsense", "value", "--ops-expose"}, "unknown flag --nonsense"},
		{"ops address without port", []string{"--ops-addr=localhost"}, "want host:port"},
		{"ops port out of range", []string{"--ops-addr=localhost:99999"}, "0 to 65535"},
		{"every interface", []string{"--ops-addr=:8081"}, "can be reached from outside"},
		{"nkey not there", []string{"--nats-nkey=/nonexistent/seed"}, "--nats-nkey (WXTOKEN_NATS_NKEY)"},
		{"no nkey", []string{"--nats-nkey=program_test.go"}, "begins with SU"},
		{"creds and nkey", []string{"--nats-nkey=program_test.go", "--nats-creds=program_test.go"}, "want one of them"},
		{"CA not there", []string{"--nats-ca=/nonexistent/ca"}, "/nonexistent/ca"},
		{"no CA", []string{"--nats-ca=program_test.go"}, "holds no certificate"},
		{"creds not there", []string{"--nats-creds=/nonexistent/creds"}, "/nonexistent/creds"},
		{"two faults of one server list", []string{"--nats-url=nats://a,ftp://b"}, `"ftp://b"`},
		{"URL that can't be read", []string{"--nats-url=nats://u:SEKRET%zz@host"}, "not a URL"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var cfg config
			var refused *settings.Error
			err := program.Parse(&cfg, row.args)
			if !errors.As(err, &refused) || len(refused.Faults) != 1 || !strings.Contains(err.Error(), row.want) {
				t.Fatalf("got %v, want one fault with %q", err, row.want)
			}
			if strings.Contains(err.Error(), "SEKRET") {
				t.Fatalf("a secret is shown: %v", err)
			}
		})
	}
}

func TestFaultsOfTheProgramItself(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		program settings.Program
		cfg     any
		want    string
	}{
		{"default for no flag", settings.Program{Name: "x", Defaults: map[string]string{"nope": "1"}}, &config{}, "--nope"},
		{"type without a parser", settings.Program{Name: "x"}, &struct{ C chan int }{}, "read the tags"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			err := row.program.Parse(row.cfg, nil)
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Fatalf("got %v, want %q", err, row.want)
			}
		})
	}
}

func TestHelpShowsFlagVariableAndDefault(t *testing.T) {
	t.Setenv("WXTOKEN_NATS_URL", "nats://secret-of-this-machine:4222")
	t.Setenv("COLUMNS", "20")
	var out bytes.Buffer
	if err := program.WriteHelp(&out, &config{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Usage: refresher [--flag=value ...]\n\nRenews tokens.\n",
		"\nOperations:\n  --ops-addr=127.0.0.1:8082  WXTOKEN_OPS_ADDR\n",
		"  --ops-expose  WXTOKEN_OPS_EXPOSE\n",
		"\nNATS:\n  --nats-url=nats://127.0.0.1:4222  WXTOKEN_NATS_URL\n",
		"  --nats-creds=<file>  WXTOKEN_NATS_CREDS\n",
		"  --return-hosts=<host,...>  WXTOKEN_RETURN_HOSTS\n",
		"\nRenewal:\n  --renew-fraction=0.66  WXTOKEN_RENEW_FRACTION\n",
		"  --component-appsecret-file=<file>  WXTOKEN_COMPONENT_APPSECRET_FILE\n",
		"  --version\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, out.String())
		}
	}
	for _, never := range []string{"--component-appsecret=", "secret-of-this-machine"} {
		if strings.Contains(out.String(), never) {
			t.Errorf("%q in:\n%s", never, out.String())
		}
	}
}

func TestSettingsInTheLogWithoutSecrets(t *testing.T) {
	t.Parallel()
	cfg := config{}
	if err := program.Parse(&cfg, []string{"--nats-url=nats://user:SEKRET-4@host:4222,nats://SEKRET-5@other:4222"}); err != nil {
		t.Fatal(err)
	}
	cfg.ComponentAppsecret = wxtoken.NewSecret("SEKRET-6")
	log, out := logtest.New()
	if err := program.LogSettings(log, &cfg); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"nats-url":"nats://[redacted]@host:4222,nats://[redacted]@other:4222"`,
		`"component-appsecret-set":true`, `"sim-life":"20s"`, `"ops-addr":"127.0.0.1:8082"`,
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s is missing in %s", want, out)
		}
	}
	if strings.Contains(out.String(), "SEKRET") {
		t.Errorf("a secret is shown: %s", out)
	}
}
