//go:build !devtee

package keybroker

import "testing"

func newDomains(testing.TB) platform { return domainPlatform{} }
