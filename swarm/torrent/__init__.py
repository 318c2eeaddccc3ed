"""What one torrent is: metainfo, picker, choker, storage, and its supervisor."""
