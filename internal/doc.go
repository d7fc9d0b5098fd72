// Package internal holds no code: its test keeps the rules of the house, which floor may import
// which, and which names are banned.
package internal
