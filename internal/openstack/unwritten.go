package openstack

import "errors"

var errUnwritten = errors.New("openstack: not written yet")
