// Package permit owns the human side of a key release: which project may use
// which dataset, for which people, until when, and what has been frozen.
//
// A project is active until it is closed or its validity ends, and only for those
// who are its members at the time: a permit does not outlive a membership. A permit
// joins one project, one dataset version and a set of people; the dataset's
// custodian grants it and may end it at any time. A freeze is a person's "stop": it
// names one person, project, dataset, image, site, chip, host, product line or key
// version, and while it is live no key is released to anything it touches. What it
// names is written as releases have it and is there to be stopped: a name that
// nothing has is refused, as is a person of an issuer whose tokens are not accepted.
//
// Every fact is read inside the transaction that releases a key, with the rows
// locked against change (FOR SHARE), so an end or a freeze that commits first
// always wins. A fact that cannot be established is false.
//
// The package trusts its caller to have authorised the actor; it checks only
// what the data itself demands (the custodian of this dataset, for example).
package permit
