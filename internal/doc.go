// Package internal holds no code: its test keeps the rules of the house, which floor may import
// which, and what nobody may use.
package internal
