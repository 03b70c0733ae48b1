"""The commands behind ./run.sh that come with the library, one file each."""
