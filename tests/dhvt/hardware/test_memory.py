import pytest

from dhvt.hardware.memory import available_memory


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"memory.max": "4096", "memory.current": "4000", "memory.stat": "anon 1000\ninactive_file 3000\n"}, 3096),
        ({"memory.max": "4096", "memory.current": "5000"}, 0),
        (
            {
                "memory/memory.limit_in_bytes": "4096",
                "memory/memory.usage_in_bytes": "4000",
                "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 2000\n",
            },
            2096,
        ),
    ],
)
def test_files_that_a_container_has_read_do_not_count_as_in_use(tmp_path, files, expected):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert available_memory(tmp_path) == expected


def test_without_a_limit_it_is_what_the_machine_has(tmp_path):
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(tmp_path) > 2**20
