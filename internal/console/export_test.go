package console

// Read returns how many records the index has taken since it was read from the beginning.
func (c *Console) Read() (n int) {
	c.index.mu.RLock()
	defer c.index.mu.RUnlock()
	for _, r := range c.index.read {
		n += r.read
	}
	return n
}

// HeldText is heldText.
var HeldText = heldText
