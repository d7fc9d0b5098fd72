package refresher

// Heard reports whether what this refresher knows of the records is as new as a sequence of KV_tokens.
func (r *Refresher) Heard(sequence uint64) bool {
	view := r.knownView()
	return view != nil && view.Seen() >= sequence
}
