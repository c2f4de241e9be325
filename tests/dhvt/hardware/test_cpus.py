import pytest

from dhvt.hardware.cpus import _cgroup_quota, available_cpus


@pytest.mark.parametrize(("text", "quota"), [("150000 100000", 1.5), ("max 100000", None), ("nonsense", None)])
def test_cgroup_quota(tmp_path, text, quota):
    (tmp_path / "cpu.max").write_text(text)
    assert _cgroup_quota(tmp_path) == quota
    assert available_cpus() >= 1


@pytest.mark.parametrize(
    ("groups", "membership", "quota"),
    [
        ({"system.slice/x.service/cpu.max": "200000 100000"}, "0::/system.slice/x.service\n", 2.0),
        ({"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, "0::/a/b\n", 1.5),
        ({"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"}, "4:memory:/x\n3:cpu,cpuacct:/a\n", 0.5),
        ({"cpu.max": "300000 100000", "other/cpu.max": "100000 100000"}, "0::/of/the/host\n", 3.0),
    ],
)
def test_the_smallest_cgroup_quota_from_ones_own_group_upwards(tmp_path, groups, membership, quota):
    for name, text in groups.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "membership").write_text(membership)
    assert _cgroup_quota(tmp_path / "cgroup", tmp_path / "membership") == quota
