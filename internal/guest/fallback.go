//go:build !devtee

package guest

// fallbackReporter has nothing: only development builds know a simulated processor.
func fallbackReporter() (Reporter, error) { return nil, ErrNoReporter }
