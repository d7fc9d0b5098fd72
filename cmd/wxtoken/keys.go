package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"wxtoken/client"
	"wxtoken/internal/natsd"
	"wxtoken/internal/seal"
	"wxtoken/internal/settings"
	"wxtoken/internal/store"
)

// The keys that the process makes for itself, files in the data directory.
const (
	// Encrypts the files of the NATS server, which would hold the access tokens in the clear.
	natsKeyFile = "nats.key"
	sealKeyFile = "seal.key" // seeds of the seal key, in the format of --seal-key-file of the refresher
)

// lostKeyRemedy ends the error about a lost key.
const lostKeyRemedy = "restore it from your backup; without it, start with another --data-dir: WeChat's list brings all accounts back, and only open links and refs are lost"

// readKey returns the content of a key file; ok is false if there is none. It refuses a file that everybody on the
// machine can read.
func readKey(file string) (text string, ok bool, err error) {
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("check a key file: %w", err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o007 != 0 {
		return "", false, fmt.Errorf("%s can be read by everybody on this machine (chmod 600 %s, and consider the key known to them)", file, file)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", false, fmt.Errorf("read a key file: %w", err)
	}
	// The process that made an empty file died before it used the key.
	if text = strings.TrimSpace(string(data)); text == "" {
		return "", false, os.Remove(file)
	}
	return text, true, nil
}

// natsKey returns the key of the NATS server's files, made at the first start. It makes none if there are encrypted
// files already.
func (s *config) natsKey() (wxtoken.Secret, error) {
	file := filepath.Join(s.DataDir, natsKeyFile)
	key, ok, err := readKey(file)
	if err != nil || ok {
		return wxtoken.NewSecret(key), err
	}
	if encrypted, err := natsd.Encrypted(s.DataDir); err != nil {
		return wxtoken.Secret{}, err
	} else if encrypted {
		return wxtoken.Secret{}, fmt.Errorf("%s is gone, and the data in %s is encrypted with it: %s", natsKeyFile, s.DataDir, lostKeyRemedy)
	}
	if err := os.MkdirAll(s.DataDir, 0o700); err != nil {
		return wxtoken.Secret{}, fmt.Errorf("make the data directory: %w", err)
	}
	key = rand.Text() + rand.Text()
	return wxtoken.NewSecret(key), settings.WriteSecret(file, key)
}

// sealKeys returns the seal keys, made at the first start. It makes none if there are sealed records already.
func (s *config) sealKeys(ctx context.Context, js jetstream.JetStream) (*seal.Keys, error) {
	file := filepath.Join(s.DataDir, sealKeyFile)
	_, ok, err := readKey(file)
	if err != nil {
		return nil, err
	}
	if !ok {
		if err := store.CheckSeal(ctx, js, nil); errors.Is(err, store.ErrSealed) {
			return nil, fmt.Errorf("%s is gone, and the data in %s is sealed with it: %s", sealKeyFile, s.DataDir, lostKeyRemedy)
		} else if err != nil {
			return nil, err
		}
		if _, err := settings.MakeSealKey(file); err != nil {
			return nil, err
		}
	}
	return settings.LoadSeeds(settings.SeedSettings{SealKeyFile: file})
}
