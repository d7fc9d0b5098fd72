package settings

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"wxtoken/client"
	"wxtoken/internal/seal"
)

// SealSettings is the public key that ingest seals with. It is held as a secret because the seed might be put
// there by mistake.
type SealSettings struct {
	SealKey     wxtoken.Secret `group:"Sealing" placeholder:"X..." help:"Public key for which events on AUTH are sealed; the refreshers have its seed. Without it the events are in the clear. (refresher --make-seal-key makes a key.)"`
	SealKeyFile string         `group:"Sealing" placeholder:"file" help:"File with this key."`
}

// SeedSettings are the seeds that a refresher seals and opens with.
type SeedSettings struct {
	SealKey     wxtoken.Secret `hidden:""`
	SealKeyFile string         `group:"Sealing" placeholder:"file" help:"File with the seeds that open tickets, codes and refresh tokens, one per line; the first also seals. Without it these are in the clear. (In development: WXTOKEN_SEAL_KEY with one seed.)"`
	MakeSealKey string         `group:"Sealing" placeholder:"file" help:"Make a key and exit: write the seed to this new file, which only its owner can read, and print the public key for ingest."`
}

// LoadSealKey returns what ingest seals with, nil without a key.
func LoadSealKey(s SealSettings) (*seal.Keys, error) {
	return loadSeal(s.SealKey, s.SealKeyFile, seal.FromPublic)
}

// LoadSeeds returns what a refresher seals and opens with, nil without a seed.
func LoadSeeds(s SeedSettings) (*seal.Keys, error) {
	return loadSeal(s.SealKey, s.SealKeyFile, seal.FromSeeds)
}

// loadSeal reads a seal key. No error shows one.
func loadSeal(value wxtoken.Secret, file string, parse func(string) (*seal.Keys, error)) (*seal.Keys, error) {
	text, flag, place := value.Reveal(), "seal-key", ""
	switch {
	case text != "" && file != "":
		return nil, Fault("seal-key-file", "the value is set as well: keep one of the two")
	case file != "":
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, Fault("seal-key-file", "%w", err)
		}
		text, flag, place = string(content), "seal-key-file", file+" "
	case text == "":
		return nil, nil
	}
	keys, err := parse(text)
	if err != nil {
		return nil, Fault(flag, "%s%w", place, err)
	}
	return keys, nil
}

// MakeSealKey makes a key. It writes the seed to a new file with mode 0600, and returns the public key.
func MakeSealKey(file string) (public string, err error) {
	seed, public, err := seal.Make()
	if err != nil {
		return "", err
	}
	return public, WriteSecret(file, seed)
}

// WriteSecret writes a secret to a new file that only its owner can read. When it returns, the file is on disk.
func WriteSecret(file, secret string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write a secret: %w", err)
	}
	_, err = f.WriteString(secret + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write a secret to %s: %w", file, errors.Join(err, os.Remove(file)))
	}
	if dir, err := os.Open(filepath.Dir(file)); err == nil {
		_ = dir.Sync() // not every system can do that
		_ = dir.Close()
	}
	return nil
}
