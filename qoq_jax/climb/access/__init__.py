"""Getting a data set of the catalogue: one file per kind of host, one downloader for all.

access.py        what the catalogue says of a data set's source (Access), and what a host lists
credentials.py   logins from the environment, netrc or kaggle.json; never shown
client.py        requests: redirects, logins per host, waiting and trying again
download.py      files to disk: continued, checked, in parallel
archives.py      zip and tar, unpacked with limits
manifest.py      what a folder has, in manifest.json
check.py         is what lies in a folder complete?
get.py           all of it together, for `qoq data download`
hosts/           a file per kind of host
"""
