package store

import (
	"encoding/json"
	"fmt"

	"wxtoken/client"
	"wxtoken/internal/account"
)

// recordVersion is the version of the records that this program writes. A record with a higher
// version was written by a newer program, and is left alone.
const recordVersion = 1

// encodeCredential returns the record of a credential.
func encodeCredential(c account.Credential) ([]byte, error) {
	c.Version = recordVersion
	data, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode credential of %s: %w", c.Key, err)
	}
	return data, nil
}

// decodeCredential reads the record of key. The error never shows the record.
func decodeCredential(key wxtoken.Key, data []byte) (account.Credential, error) {
	var c account.Credential
	if err := json.Unmarshal(data, &c); err != nil {
		return account.Credential{}, fmt.Errorf("%w: credential of %s is not JSON", ErrUnreadable, key)
	}
	if c.Version > recordVersion {
		return account.Credential{}, fmt.Errorf("%w: credential of %s has version %d, this program knows %d "+
			"(run the newer program)", ErrNewer, key, c.Version, recordVersion)
	}
	if c.Key != key {
		return account.Credential{}, fmt.Errorf("%w: credential of %s names another key", ErrUnreadable, key)
	}
	return c, nil
}
