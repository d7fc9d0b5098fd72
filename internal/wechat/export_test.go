package wechat

// SetPrefix replaces the 16 random bytes before a text, so that published ciphertexts can be had
// again.
func (c *Crypter) SetPrefix(prefix string) { c.prefix = func() string { return prefix } }

// CloseIdle ends the connections that c keeps open between calls: none is to outlive a test.
func (c *Client) CloseIdle() { c.http.CloseIdleConnections() }
