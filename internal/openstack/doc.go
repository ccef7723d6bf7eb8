// Package openstack is the only place that speaks to a cloud: Keystone, Nova, Cinder, Neutron, Glance and Barbican, one
// file per service, through gophercloud.
//
// It owns: authentication, microversions, deadlines, the classification of every error into a Kind, and the natural keys
// that make each call safe to repeat. OpenStack has no idempotency tokens, so:
//
//   - every Ensure* finds by natural key, else creates; it may be called again after any error, and an answer that was
//     lost after the cloud had applied the request costs nothing but a second look;
//   - where two of a thing exist, all callers keep the same one and delete the others;
//   - every Delete* accepts absence, and reads the thing first: what does not carry this installation's name prefix is
//     never deleted;
//   - no POST is ever sent twice by this package on its own account.
//
// It trusts nobody: the catalog may only name hosts of the allow-list, redirects are not followed, bodies are bounded,
// every identifier is checked to be one, and what must be so (security group rules, boot metadata, volume properties) is
// read back and compared. Bodies of answers never become part of an error where they may hold secrets.
package openstack
