"""What libtorrent makes of a .torrent file, compared with what we make of it."""

from __future__ import annotations

import libtorrent as lt

from swarm.torrent.metainfo import Metainfo


def assert_agree(metainfo: Metainfo, data: bytes) -> None:
    """That libtorrent reads the same torrent out of ``data``."""
    theirs = lt.load_torrent_buffer(data)
    layout = theirs.ti.layout()
    assert theirs.info_hashes.v1.to_bytes() == metainfo.info_hash
    assert theirs.info_hashes.has_v2() == (metainfo.version == "hybrid")
    if metainfo.info_hash_v2 is not None:
        assert theirs.info_hashes.v2.to_bytes() == metainfo.info_hash_v2
    assert (layout.num_files(), layout.num_pieces()) == (len(metainfo.files), metainfo.piece_count)
    assert (layout.piece_length(), layout.total_size()) == (metainfo.piece_length, metainfo.total_size)
    for index, entry in enumerate(metainfo.files):
        flags = layout.file_flags(index)
        pad = bool(flags & (lt.file_storage.flag_pad_file | lt.file_storage.flag_symlink))
        assert (layout.file_size(index), layout.file_offset(index), pad) == (entry.size, entry.offset, entry.pad)
        if not pad:
            assert layout.file_path(index) == "/".join(entry.path)
            assert bool(flags & lt.file_storage.flag_executable) == entry.executable
    for index in range(metainfo.piece_count):
        assert theirs.ti.hash_for_piece(index) == metainfo.piece_hash(index)
        assert layout.piece_size(index) == metainfo.piece_size(index)
    assert [url for tier in metainfo.trackers for url in tier] == theirs.trackers
    assert list(metainfo.web_seeds) == theirs.url_seeds
    assert theirs.ti.priv() == metainfo.private
