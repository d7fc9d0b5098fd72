package refresher

// SetComponents is to replace the components. Not yet: those of the start stay.
func (r *Refresher) SetComponents([]Component) {}
